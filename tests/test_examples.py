"""The examples run, as a reader would run them, on a tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

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


class Silent:
    """A painter that draws nothing: `done` are the tags of pictures that are finished."""

    def __init__(self, *_: object) -> None:
        self.tags: list[object] = []
        self.done: list[object] = []

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, *_: object, tag: object = None, **__: object) -> int:
        self.tags.append(tag)
        return len(self.tags)

    def poll(self) -> list[SimpleNamespace]:
        done, self.done = self.done, []
        return [SimpleNamespace(kind="done", error=None, ticket=1, tag=tag) for tag in done]

    def take(self, ticket: int) -> SimpleNamespace:
        return SimpleNamespace(array=np.zeros((4, 4, 3), np.uint8), shape=(4, 4, 3))


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame.font.init()
    return example("wanted")


def game_of(wanted: ModuleType, painter: Silent, rounds: int) -> Any:
    """A game whose first round begins at 100 s."""
    game = wanted.Game(wanted.pygame.Surface((wanted.WIDTH, wanted.HEIGHT)), painter, "dragon", rounds)
    painter.done = list(painter.tags)
    game.step(100.0)
    assert game.begun == 100.0
    return game


def test_wanted_takes_no_life_for_a_ninja_that_was_found_in_time(wanted: ModuleType) -> None:
    game = game_of(wanted, Silent(), 2)
    right = game.round.cards[game.round.wanted]
    game.accuse(right, 119.5)
    points, left_s = game.points, game.left_s(119.5)
    game.step(120.1)  # the incense would have burnt down
    game.accuse(right, 120.35)
    assert game.left_s(120.1) == left_s and (game.number, game.points) == (0, points)
    game.step(120.4)
    assert (game.number, game.lives, game.combo, game.finds) == (1, wanted.LIVES, 1, 1)


def test_wanted_takes_a_click_of_the_left_button_alone(wanted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that turns over a card comes as buttons 4 and 5."""
    game, pygame = game_of(wanted, Silent(), 2), wanted.pygame
    card = game.round.cards[0]
    card.place = pygame.Rect(10, 10, 50, 50)
    clicks = [pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=button, pos=(20, 20)) for button in (4, 3, 1)]
    accused: list[Any] = []
    monkeypatch.setattr(game, "accuse", lambda one, now: accused.append(one))
    monkeypatch.setattr(pygame.event, "get", lambda: clicks)
    wanted.answer(game, 101.0)
    assert accused == [card]


def test_wanted_counts_what_was_found(wanted: ModuleType) -> None:
    game = game_of(wanted, Silent(), 1)
    game.step(121.0)
    assert game.over and game.outcome == "0 of 1 found"
    game.lives = 0
    assert game.outcome == "The incense has burnt down"
    game = game_of(wanted, Silent(), 1)
    game.accuse(game.round.cards[game.round.wanted], 101.0)
    game.step(102.0)
    assert game.over and game.outcome == "All found!"


def test_wanted_is_played_again_while_pictures_of_the_last_game_come(wanted: ModuleType) -> None:
    painter = Silent()
    old = game_of(wanted, painter, 3)
    of_the_next_round = painter.tags[len(old.round.cards) :]
    assert of_the_next_round
    new = wanted.Game(old.screen, painter, "dragon", 3)
    painter.done = of_the_next_round
    new.step(130.0)
    assert not any(card.picture for card in new.round.cards)


def test_wanted_has_a_round_at_least(wanted: ModuleType) -> None:
    done = CliRunner().invoke(wanted.main, ["--rounds", "0", "--demo"])
    assert done.exit_code == 2 and "'--rounds'" in done.output


def test_a_game_whose_picture_does_not_come_ends_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    game = example("game")
    monkeypatch.setattr(game.genin, "Painter", Silent)
    monkeypatch.setattr(game, "play", partial(game.play, max_s=0))
    done = CliRunner().invoke(game.main, ["a ninja"])
    assert done.exit_code == 1 and done.output.startswith("Error: no picture within 0 s: ")


@pytest.mark.parametrize(("content", "says"), [(b"\xef\xbb\xbf\n", "no prompts"), (b"caf\xe9\n", "save it as UTF-8")])
def test_the_batch_reads_utf_8_with_a_mark_and_names_what_is_not(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    done = CliRunner().invoke(example("batch").main, [str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and says in done.output and isinstance(done.exception, SystemExit)


def test_the_batch_names_a_file_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a ninja\n", encoding="utf-8")
    done = CliRunner().invoke(
        example("batch").main, [str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "prompts.txt")]
    )
    assert done.exit_code == 2 and "is a file" in done.output


def test_the_batch_leaves_earlier_pictures_alone(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a ninja\n", encoding="utf-8")
    (tmp_path / "000-0.png").write_bytes(b"earlier")
    for out, says in ((tmp_path, "has pictures already"), (tmp_path / "prompts.txt" / "out", "Not a directory")):
        done = CliRunner().invoke(example("batch").main, [str(tmp_path / "prompts.txt"), "--out", str(out)])
        assert done.exit_code == 1 and says in done.output and isinstance(done.exception, SystemExit)
    assert (tmp_path / "000-0.png").read_bytes() == b"earlier"


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
