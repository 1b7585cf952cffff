"""The JSON and text files of models as editors of other systems save them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from genin.runtimes.errors import InputError
from genin.runtimes.folder import plain_json, read_constants, read_info, read_json, read_model_index
from genin.runtimes.tokenizer import _read_merges, _read_vocabulary


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_with_a_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_text('{"name": "ninja’s"}', encoding=encoding)
    assert read_json(tmp_path / "a.json", "missing") == {"name": "ninja’s"}
    (tmp_path / "a.json").write_bytes('{"name": "café"}'.encode("cp1252"))
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "a.json", "missing")


def test_a_vocabulary_is_read_with_a_mark() -> None:
    assert _read_vocabulary('\ufeff{"a": 0}'.encode()) == {"a": 0}
    assert _read_merges("\ufeff#version: 0.2\na b</w>\n".encode()) == [("a", "b</w>")]


def test_a_model_folder_whose_json_begins_with_a_mark_is_read_everywhere(
    tiny_student_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    from genin.distill.models.folder import load_model_folder
    from genin.export.facts import network_facts

    model = shutil.copytree(tiny_student_folder, tmp_path / "model")
    expected = read_constants(model), network_facts(model)
    for path in [*model.rglob("*.json"), model / "tokenizer" / "merges.txt"]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_model_index(model) and read_info(model)
    assert (read_constants(model), network_facts(model)) == expected
    loaded, plain = load_model_folder(model), load_model_folder(tiny_student_folder)
    assert loaded.tokenizer("a ninja")["input_ids"] == plain.tokenizer("a ninja")["input_ids"]
    assert loaded.parameters() == plain.parameters()


def test_a_folder_without_marks_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}), encoding="utf-8")
    with plain_json(tmp_path) as plain:
        assert plain == tmp_path
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}), encoding="utf-8-sig")
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with plain_json(tmp_path) as plain:
        assert json.loads((plain / "config.json").read_text("utf-8")) == {"a": 1}
        assert (plain / "weights.safetensors").read_bytes() == b"x"
    assert not plain.exists() and (tmp_path / "weights.safetensors").is_file()
