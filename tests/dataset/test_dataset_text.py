"""Encodings: Unicode with and without marks, code pages that can be told apart, and those that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from genin.benchmarks.prompts import read_prompts
from genin.dataset.text import check_encoding, decode_any
from genin.runtimes.errors import InputError
from genin.runtimes.text import decode_text, lines_of, read_text

CAPTIONS = {
    "cp1252": (
        "a “calm” ninja’s café",
        "ein grüner Drache über dem Fluß",
        "the hero’s sword — glowing",
        "“quoted”",
        "père Noël",
    ),
    "cp1250": ("żółw na plaży", "kočka spí na střeše", "ősz a hegyekben"),
    "cp1251": ("ниндзя бежит по лесу", "Кошка спит на крыше", "лес"),
    "koi8_r": ("ниндзя бежит по лесу", "красный дракон"),
    "cp932": ("忍者が走る", "赤いドラゴン", "プールで泳ぐ猫", "忍者"),
    "euc_jp": ("赤いドラゴン", "森の中の城"),
    "gb2312": ("一个忍者在奔跑", "红色的龙", "龙"),
    "big5": ("紅色的龍", "森林裡的城堡"),
    "cp949": ("빨간 용", "달리는 닌자"),
    "mac_roman": ("niño con una espada", "ein grüner Drache"),
    "cp850": ("père Noël", "café au lait"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_with_and_without_a_mark(encoding: str) -> None:
    text = "a ninja’s scarf\nnoon"
    assert decode_text(text.encode(encoding)) == text
    if encoding.endswith(("le", "be")):
        assert decode_text(("\ufeff" + text).encode(encoding)) == text


def test_what_is_no_unicode_text_is_refused_with_the_place() -> None:
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte 4: "):
        decode_text("caf\xe9 x".encode("latin-1"))
    with pytest.raises(ValueError, match="NUL"):
        decode_text(b"a\0\0\0b")
    with pytest.raises(ValueError, match="not UTF-16-LE"):
        decode_text(b"\xff\xfea\0b")


def test_code_pages_are_told_apart_or_refused_never_mistaken() -> None:
    right = 0
    for encoding, texts in CAPTIONS.items():
        for text in texts:
            try:
                decoded = decode_any(text.encode(encoding))
            except ValueError as error:
                assert "cannot be told for certain" in str(error)
                continue
            assert decoded.text == text, encoding
            right += 1
    assert right >= 16  # of 33: of the others two readings are plausible


def test_most_of_them_are_mistaken_by_a_statistical_detector() -> None:
    detector = pytest.importorskip("charset_normalizer")
    captions = [(encoding, text) for encoding, texts in CAPTIONS.items() for text in texts]
    found = [str(detector.from_bytes(text.encode(encoding)).best()) for encoding, text in captions]
    assert sum(said != text for said, (_, text) in zip(found, captions, strict=True)) > len(captions) // 3


def test_a_stated_encoding_is_used_for_what_is_not_unicode() -> None:
    assert decode_any("niño".encode("cp1252"), "cp1252").text == "niño"
    assert decode_any("niño".encode(), "cp1252").text == "niño"
    with pytest.raises(ValueError, match="neither UTF-8 nor shift_jis"):
        decode_any(b"\xfd\xff", "shift_jis")
    with pytest.raises(InputError, match="'rot13' is not a text encoding"):
        check_encoding("rot13")


def test_damaged_utf8_is_not_taken_for_a_code_page() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        decode_any("忍者が走る café".encode()[:-1])


def test_only_line_ends_end_lines(tmp_path: Path) -> None:
    assert lines_of("a\r\nb\rc\nd\u2028e\x85f\x0bg") == ["a", "b", "c", "d\u2028e\x85f\x0bg"]
    (tmp_path / "p.txt").write_bytes("\ufeffa ninja\u2028under it\nthe\x85sunset\n".encode("utf-16"))
    assert read_prompts(tmp_path / "p.txt") == ["a ninja\u2028under it", "the\x85sunset"]


def test_a_prompt_is_text(tmp_path: Path) -> None:
    for value in ("null", "3", "true", '""', "NaN"):
        (tmp_path / "p.jsonl").write_text(f'{{"text": "a"}}\n\n{{"text": {value}}}\n', encoding="utf-8")
        with pytest.raises(InputError, match="row 3 is not a JSON object with"):
            read_prompts(tmp_path / "p.jsonl")
    (tmp_path / "p.txt").write_bytes("忍者".encode("shift_jis"))
    with pytest.raises(InputError, match=r"not UTF-8.*save it as UTF-8"):
        read_prompts(tmp_path / "p.txt")
    with pytest.raises(InputError, match="not UTF-8"):
        read_text(tmp_path / "p.txt")


@pytest.mark.parametrize("name", ["p.csv", "p.json", "p.TSV"])
def test_a_table_is_no_list_of_prompts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text\na ninja\n")
    with pytest.raises(InputError, match=r"prompts are not read from .* one prompt per line of a \.txt"):
        read_prompts(tmp_path / name)


def test_prompts_of_a_dataset_table_may_be_in_any_usual_column(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"caption": "one"}\n{"text": null, "prompt": "two"}\n')
    assert read_prompts(tmp_path / "p.jsonl") == ["one", "two"]
