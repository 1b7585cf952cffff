"""Tokenizer folders that have `tokenizer.json` alone are read as those with `vocab.json` and `merges.txt`; others are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from genin.cli import run
from genin.runtimes.errors import InputError
from genin.runtimes.folder import added_tokens, missing_files, read_constants
from genin.runtimes.tokenizer import ClipTokenizer
from genin.runtimes.tokenizer_files import from_combined, tokenizer_files

PROMPTS = ["a ninja in teal", "Le ninja été naïve 忍者 don't_stop", "", "<|endoftext|> a"]


def combine(model: Path, *, merges_as_lists: bool = False, special_in_vocabulary: bool = True) -> None:
    """Turn the two files into one `tokenizer.json`, as the tokenizers package writes it."""
    folder = model / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    merges: list[Any] = (folder / "merges.txt").read_text("utf-8").split("\n")[1:-1]
    special = {name: vocabulary[name] for name in ("<|startoftext|>", "<|endoftext|>")}
    if not special_in_vocabulary:
        vocabulary = {name: number for name, number in vocabulary.items() if name not in special}
    if merges_as_lists:
        merges = [pair.split(" ") for pair in merges]
    content = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": name, "special": True} for name, number in special.items()],
        "model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocabulary, "merges": merges},
    }
    for path in folder.iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def ids(model: Path) -> list[list[int]]:
    files, constants = tokenizer_files(model / "tokenizer"), read_constants(model)
    tokenizer = ClipTokenizer(files["vocab.json"], files["merges.txt"], constants.text, added_tokens(model))
    found: list[list[int]] = tokenizer(PROMPTS).tolist()
    return found


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_the_vocabulary_is_taken_out_of_tokenizer_json(
    tiny_student_folder: Path, tmp_path: Path, lists: bool, special: bool
) -> None:
    from genin.distill.models.folder import load_model_folder, save_model_folder

    model = shutil.copytree(tiny_student_folder, tmp_path / "model")
    combine(model, merges_as_lists=lists, special_in_vocabulary=special)
    assert not (model / "tokenizer" / "vocab.json").exists()
    assert ids(model) == ids(tiny_student_folder) and not missing_files(model)
    assert read_constants(model) == read_constants(tiny_student_folder)
    loaded, plain = load_model_folder(model), load_model_folder(tiny_student_folder)
    assert loaded.tokenizer(PROMPTS)["input_ids"] == plain.tokenizer(PROMPTS)["input_ids"]
    save_model_folder(loaded, tmp_path / "again")  # what training, merging and export write has both files
    assert ids(tmp_path / "again") == ids(model)


def test_it_draws_the_same_picture(tiny_student_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_student_folder, tmp_path / "model")
    combine(model)
    for name, folder in (("a", tiny_student_folder), ("b", model)):
        assert run(["generate", PROMPTS[0], "-m", str(folder), "--out", str(tmp_path / f"{name}.png")]) == 0
    from genin.runtimes.pictures import Picture

    one, other = (Picture.open(tmp_path / f"{name}.png") for name in "ab")
    assert (one.array == other.array).all()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, r"not CLIP's \(Unigram\).*give a model with CLIP's tokenizer"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, r"not CLIP's \(byte pairs without"),
        ({"model": {"end_of_word_suffix": "</w>", "vocab": [], "merges": []}}, "no vocabulary or no merges"),
        ({"model": {"end_of_word_suffix": "</w>", "vocab": {}, "merges": ["a b c"]}}, "are not pairs"),
        ({"model": {"end_of_word_suffix": "</w>", "vocab": {}, "merges": [["a b", "c"]]}}, "have spaces"),
        ({"model": 3}, "not a tokenizer of the tokenizers package"),
        ([], "not a tokenizer of the tokenizers package"),
        ("{", "not valid JSON"),
    ],
)
def test_other_tokenizers_are_named(
    content: Any, says: str, tmp_path: Path, tiny_student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny_student_folder, tmp_path / "model")
    combine(model)
    file = model / "tokenizer" / "tokenizer.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=says):
        from_combined(file)
    for command in (["generate", "a"], ["inspect"], ["export"]):
        line = [*command, "-m", str(model)] if command[0] == "generate" else [*command, str(model)]
        out = [] if command[0] == "inspect" else ["--out", str(tmp_path / "out.png")]
        if command[0] == "export":
            out = ["--out", str(tmp_path / "out"), "--format", "onnx", "--precision", "fp32"]
        assert run([*line, *out]) == 2, command
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and str(file) in said[0], said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks a file \(CLIP's vocab.json\): .*vocab.json; re-create"):
        tokenizer_files(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(InputError, match=r"lacks a file \(CLIP's merges.txt\)"):
        tokenizer_files(tmp_path)
