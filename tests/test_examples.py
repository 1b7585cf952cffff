"""The examples run, as a reader would run them, on a tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import genin
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
    with genin.Painter(pipeline) as painter:
        for seed in range(20):  # the last thought wins
            painter.submit("the first thought", seed, slot="the hero")
        picture, frames = game.play(painter, "a ninja on a mountain", 7)
    assert np.array_equal(picture.array, pipeline.generate("a ninja on a mountain", 7).images[0])
    assert frames >= 1


@pytest.mark.export
@pytest.mark.parametrize("options", [[], ["--process"]])
def test_the_game_writes_its_picture(tiny_bundle: Path, tmp_path: Path, options: list[str]) -> None:
    arguments = ["a ninja", "-m", str(tiny_bundle), "--seed", "5", "--out", str(tmp_path / "game.png"), *options]
    done = CliRunner().invoke(example("game").main, arguments)
    assert done.exit_code == 0, done.output
    assert "frames went by" in done.output and genin.Picture.open(tmp_path / "game.png").seed == 5


@pytest.mark.export
@pytest.mark.parametrize("options", [[], ["--process"]])
def test_wanted_plays_by_itself(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    arguments = [
        "--word",
        "dragon",
        "-m",
        str(tiny_bundle),
        "--demo",
        "--rounds",
        "2",
        "--record",
        str(tmp_path),
        *options,
    ]
    done = CliRunner().invoke(example("wanted").main, arguments)
    assert done.exit_code == 0, done.output
    said = re.fullmatch(r"([\d,]+) points; ([\d,]+) frames, .*\n", done.output)
    assert said is not None, done.output
    points, frames = (int(number.replace(",", "")) for number in said.groups())
    assert points >= 100 and frames == len(json.loads((tmp_path / "frames.json").read_text(encoding="utf-8")))
    with Image.open(tmp_path / "table.png") as table:
        assert table.size == (1120, 660)


def test_wanted_deals_the_same_cards_to_everybody() -> None:
    pytest.importorskip("pygame")
    wanted = example("wanted")
    for number in range(wanted.ROUNDS):
        deal, other = wanted.deal("Dragon", number), wanted.deal("dragon", number)
        assert [(card.scene, card.seed) for card in deal.cards] == [(card.scene, card.seed) for card in other.cards]
        assert (
            len({tuple(card.scene.items()) for card in deal.cards}) == len(deal.cards) and deal.wanted == other.wanted
        )
    assert wanted.deal("dragon", 0).cards[0].seed != wanted.deal("river", 0).cards[0].seed


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


@pytest.mark.parametrize("name", ["game", "batch", "wanted"])
def test_a_model_that_is_not_there_is_a_line_and_not_a_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("a ninja\n", encoding="utf-8")
    out = ["--out", str(tmp_path / "out")]
    own = {"game": ["a ninja", *out], "batch": [str(tmp_path / "prompts.txt"), *out], "wanted": ["--demo"]}
    if name == "wanted":
        pytest.importorskip("pygame")
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    arguments = [*own[name], "-m", str(tmp_path / "absent")]
    done = CliRunner().invoke(example(name).main, arguments)
    assert done.exit_code == 1 and "no such" in done.output and isinstance(done.exception, SystemExit)
