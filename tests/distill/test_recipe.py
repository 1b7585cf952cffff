"""Recipe files: numbers as people write them, and what is refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml")

from genin.cli import run
from genin.distill.recipe import Recipe, load_recipe, save_recipe
from genin.runtimes.errors import InputError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.0e-4", "1.e-04", "0.1e-3", ".1e-3", "0.0001", "+1e-4"])
def test_floats_are_read_in_every_notation(tmp_path: Path, number: str) -> None:
    recipe = load_recipe(written(tmp_path, f"prune: {{lr: {number}, ema_decays: [{number}]}}"))
    assert recipe.prune.lr == pytest.approx(1e-4) and recipe.prune.ema_decays == (pytest.approx(1e-4),)


def test_text_that_resembles_a_number_stays_text(tmp_path: Path) -> None:
    path = written(tmp_path, 'finetune: {validation_prompts: ["1e5", e5, 1e5x, 1e]}')
    assert load_recipe(path).finetune.validation_prompts == ("1e5", "e5", "1e5x", "1e")


def test_a_saved_recipe_is_read_back_as_it_was(tmp_path: Path) -> None:
    recipe = load_recipe(
        written(tmp_path, "finetune: {lr: 1e-7, min_snr_gamma: 5, validation_prompts: ['a: b', '1e5']}")
    )
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe != Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune: {lr: .inf}", "'prune.lr' must be a finite number, not inf"),
        ("prune: {weight_decay: -.inf}", "'prune.weight_decay' must be a finite number, not -inf"),
        ("prune: {ema_decays: [0.9, .nan]}", "'prune.ema_decays' must be a finite number, not (0.9, nan)"),
        ("prune: {lr: 1e999}", "'prune.lr' must be a finite number, not inf"),
        ('prune: {lr: "1e-4"}', "'prune.lr' must be float, not '1e-4'"),
        ("prune: {lr: -1e-4}", "'prune.lr' must be at least 0, not -0.0001"),
        ("prune: {batch_size: 1e1}", "'prune.batch_size' must be int, not 10.0"),
        ("prune: {lr: 1e-3, images: 8, lr: 1e-4}", "the key 'lr' is repeated"),
        ("prune: {images: 8}\nsteps: {images: 8}\nprune: {lr: 1e-4}", "the key 'prune' is repeated"),
        ("prune: {? [1, 2] : 3}", "the recipe is not valid YAML"),
        ("prune: {lr: 1e-4", "the recipe is not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(
    tmp_path: Path, text: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    command = ["distill", "--teacher", "none", "--data", "builtin:world", "--recipe", str(path), "--out"]
    assert run([*command, str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_place_of_a_repeated_key_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "prune:\n  lr: 1e-3\n  images: 8\n  lr: 1e-4\n")
    with pytest.raises(InputError, match=r"line 4"):
        load_recipe(path)


def test_merged_keys_may_be_overridden(tmp_path: Path) -> None:
    """YAML's own way of sharing keys between sections is no repetition."""
    path = written(tmp_path, "prune: &shared {lr: 1e-3, images: 8}\nsteps: {<<: *shared, images: 16}\n")
    recipe = load_recipe(path)
    assert recipe.steps.lr == 1e-3 and (recipe.prune.images, recipe.steps.images) == (8, 16)


@pytest.mark.parametrize("command", [["teacher", "train"], ["teacher", "finetune"], ["distill", "--teacher", "none"]])
@pytest.mark.parametrize("minutes", ["nan", "inf", "0", "-1"])
def test_a_time_budget_is_a_positive_finite_number(
    tmp_path: Path, command: list[str], minutes: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "builtin:world", "--out", str(tmp_path / "out"), "--minutes", minutes]
    assert run([*command, *arguments]) == 2
    assert "--minutes" in capfd.readouterr().err and not (tmp_path / "out").exists()
