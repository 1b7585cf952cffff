"""Options that commands share: comma lists, unknown values, names of models."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from genin.runtimes.engine import ENGINES
from genin.runtimes.errors import InputError, MissingExtraError
from genin.runtimes.files import claim_output
from genin.runtimes.options import CommaChoice, flatten
from genin.runtimes.vocabulary import RUNTIMES, split_choices


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("a,b", ("a", "b")),
        (["a", "b,a"], ("a", "b")),
        (" b , a ", ("b", "a")),
        ("", ()),
    ],
)
def test_split_choices_takes_commas_and_repetition(values: str | list[str], expected: tuple[str, ...]) -> None:
    assert split_choices(values, ("a", "b")) == expected


def test_unknown_value_lists_the_choices_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown runtime 'openvno'.*did you mean openvino\?.*onnxruntime, openvino"):
        split_choices("openvno", ("onnxruntime", "openvino"), "runtime")


def test_comma_choice_in_a_command() -> None:
    @click.command()
    @click.option("--format", "formats", type=CommaChoice(("onnx", "openvino", "coreml")), multiple=True)
    def command(formats: tuple[tuple[str, ...], ...]) -> None:
        click.echo(" ".join(flatten(formats)))

    result = CliRunner().invoke(command, ["--format", "onnx,coreml", "--format", "openvino,onnx"])
    assert result.output.split() == ["onnx", "coreml", "openvino"]
    wrong = CliRunner().invoke(command, ["--format", "onx"])
    assert wrong.exit_code == 2
    assert "did you mean onnx" in wrong.output


@pytest.mark.parametrize(("name", "suffix"), [("page.pdf", ".html"), ("sheet", ".png"), ("sheet.jpg", ".png")])
def test_outputs_must_end_as_their_kind_does(tmp_path: Path, name: str, suffix: str) -> None:
    with pytest.raises(InputError, match=f"let the name end in {suffix}"):
        claim_output(tmp_path / "new" / name, suffix)
    assert not (tmp_path / "new").exists()
    claim_output(tmp_path / "new" / f"ok{suffix.upper()}", suffix)
    claim_output(tmp_path / "new" / name)


def test_errors_are_one_line_with_remedy() -> None:
    error = MissingExtraError("onnxruntime", "onnxruntime")
    assert str(error) == "'onnxruntime' is not installed; pip install 'genin[onnxruntime]'"
    assert error.exit_code == 2


def test_the_vocabulary_names_every_engine() -> None:
    assert set(RUNTIMES) == set(ENGINES)
