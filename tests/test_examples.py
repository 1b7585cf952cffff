"""The examples run, as a reader would run them, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from genin.runtimes.errors import GeninError
from genin.runtimes.loading import load_pipeline
from genin.runtimes.pipeline import Pipeline
from programs import load_program

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    return load_program(f"examples/{name}.py")


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Iterator[Pipeline]:
    with load_pipeline(tiny_bundle, "onnxruntime", threads=1) as pipeline:
        yield pipeline


@pytest.mark.export
def test_the_game_goes_on_while_the_picture_is_drawn(pipeline: Pipeline) -> None:
    game = example("game")
    painter = game.Painter(pipeline)
    pixels, frames = game.play(painter, "a ninja on a mountain", 7)
    painter.close()
    assert np.array_equal(pixels, pipeline.generate("a ninja on a mountain", 7).images[0])
    assert frames >= 1


@pytest.mark.export
def test_a_newer_prompt_wins_and_an_error_reaches_the_game(pipeline: Pipeline) -> None:
    game = example("game")
    painter = game.Painter(pipeline, steps=1)
    for seed in range(20):
        painter.ask("the first thought", seed)
    pixels, _ = game.play(painter, "the second thought", 3)
    assert np.array_equal(pixels, pipeline.generate("the second thought", 3, steps=1).images[0])
    with pytest.raises(GeninError):
        game.play(painter, "a seed out of range", -1)
    painter.close()


@pytest.mark.export
def test_the_batch_draws_each_line_with_each_seed(tiny_bundle: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    batch = example("batch")
    (tmp_path / "prompts.txt").write_text("a ninja\n\na mountain\n", encoding="utf-8")
    arguments = [str(tmp_path / "prompts.txt"), "-m", str(tiny_bundle), "--seeds", "5", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(batch.main, arguments)
    assert done.exit_code == 0, done.output
    names = {f"{line:03d}-{seed}.png" for line in (0, 1) for seed in range(5)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "sheet.png"}
    with Image.open(tmp_path / "out" / "001-4.png") as picture, Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (5 * picture.width, 2 * picture.height)


@pytest.mark.parametrize("name", ["game", "batch"])
def test_a_model_that_is_not_there_is_a_line_and_not_a_traceback(name: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a ninja\n", encoding="utf-8")
    words = {"game": "a ninja", "batch": str(tmp_path / "prompts.txt")}
    arguments = [words[name], "-m", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(example(name).main, arguments)
    assert done.exit_code == 1 and "no such" in done.output and isinstance(done.exception, SystemExit)
