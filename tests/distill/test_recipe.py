"""Recipe files: numbers as people write them, and what is refused with the key that is wrong."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
pytest.importorskip("pydantic")

from genin.cli import run  # noqa: E402
from genin.distill.recipe import (  # noqa: E402
    AdversarialRecipe,
    AutoencoderRecipe,
    Optimisation,
    PoolRecipe,
    PruneRecipe,
    Recipe,
    StudentRecipe,
    json_schema,
    load_recipe,
    save_recipe,
)
from genin.distill.recipe_fields import section  # noqa: E402
from genin.distill.recipe_yaml import RecipeLoader  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


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


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("prune:\n  lr: 1e-3\n  images: 8\n  lr: 1e-4\n", 4, "the key 'lr' is repeated"),
        ("prune:\n  lr: [1\nsteps: 3", 3, "not valid YAML"),
        ("prune: *nowhere", 1, "undefined alias 'nowhere'"),
        ("# rates\n\nprune:\n  images: 8\n  lr: -1\n", 5, "'prune.lr' must be at least 0, not -1"),
        ("prune:\n  ema_decays:\n    - 0.9\n    - 2\n", 4, "'prune.ema_decays' must be from 0 to 1, not (0.9, 2)"),
        ("prune:\n  ema_decays:\n    []\n", 2, "'prune.ema_decays' is empty"),
        ("prune:\n  ema_decays: 0.9", 2, "'prune.ema_decays' must be a list, not 0.9"),
        ("prune:\n  ema_decays: !!set {0.9}", 2, "'prune.ema_decays' must be a list, not {0.9}"),
        ("steps:\n  step_counts: [4, 2.0]", 2, "'steps.step_counts' must be int, not 2.0"),
        (f"prune:\n  images: 1{'0' * 400}", 2, "'prune.images' must be from 0 to 1,000,000,000,000,000"),
        ("prune:\n  images: true", 2, "'prune.images' must be int, not True"),
        ("prune:\n  compile: 1", 2, "'prune.compile' must be bool, not 1"),
        ("steps:\n  huber_c: 0", 2, "'steps.huber_c' must be above 0, not 0"),
        ("student:\n  name: 5", 2, "'student.name' must be str, not 5"),
        ("pool:\n  size: 0", 2, "'pool.size' must be from 1 to 1,000,000, not 0"),
        ("pool:\n  teacher_precision: bf61", 2, "'pool.teacher_precision' must be bf16 or no, not 'bf61'"),
        ("pool:\n  teacher_precision: bf61", 2, "; did you mean: bf16"),
        ("prune:\n  optimizer: adamw8bits", 2, "; did you mean: adamw8bit"),
        ("prune:\n  mixed_precision: no", 2, 'did you mean: "no" (in quotes'),
        ("prune: {}\nsteps:\n  huber: 1", 3, "unknown key 'steps.huber'"),
        ("prune: {}\nsteps:\n  huber: 1", 3, "; did you mean: huber_c"),
        ("pool: {}\nprne: {}", 2, "unknown key 'prne'"),
        ("pool: {}\nprne: {}", 2, "; did you mean: prune"),
        ("pool:\n  1: 2", 2, "unknown key 'pool.1'"),
        ("pool: {}\nprune:", 2, "section 'prune' must be a mapping"),
        ("prune: &shared\n  lr: -1\nsteps:\n  <<: *shared\n  images: 8", 2, "'prune.lr' must be at least 0"),
        (
            "prune: &shared\n  images: 8\nsteps:\n  <<: *shared\n  images: -8",
            5,
            "'steps.images' must be from 0 to 1,000,000,000,000,000, not -8",
        ),
        ("prune: &shared\n  feature_weight: 1\nsteps:\n  <<: *shared", 2, "unknown key 'steps.feature_weight'"),
    ],
)
def test_an_error_names_the_line_and_what_would_be_right(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert message in str(caught.value) and f"{path}, line {line}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="section 'recipe' must be a mapping"):
        load_recipe(written(tmp_path, "[1, 2]"))
    assert load_recipe(written(tmp_path, "# nothing\n")) == load_recipe(None) == Recipe()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": -1}, "'PruneRecipe.lr' must be at least 0, not -1"),
        ({"lr": float("nan")}, "'PruneRecipe.lr' must be a finite number, not nan"),
        ({"images": 8.0}, "'PruneRecipe.images' must be int, not 8.0"),
        ({"mixed_precision": "fp61"}, "'PruneRecipe.mixed_precision' must be bf16 or no, not 'fp61'"),
        ({"ema_decays": ()}, "'PruneRecipe.ema_decays' is empty"),
        ({"imags": 8}, "unknown key 'PruneRecipe.imags'; did you mean: images"),
    ],
)
def test_a_recipe_made_in_python_is_refused_too(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        PruneRecipe(**values)
    assert str(caught.value).startswith(message)
    if "imags" not in values:
        with pytest.raises(InputError):
            dataclasses.replace(PruneRecipe(), **values)


def test_recipes_are_plain_frozen_dataclasses() -> None:
    recipe = Recipe(student=StudentRecipe("bk-tiny", width=0.5), prune=PruneRecipe(lr=1, ema_decays=[0.9]))  # type: ignore[arg-type]
    assert (recipe.student.name, recipe.student.width) == ("bk-tiny", 0.5)
    assert type(recipe.prune.lr) is float and recipe.prune.ema_decays == (0.9,)
    assert recipe == dataclasses.replace(Recipe(), student=recipe.student, prune=recipe.prune) != Recipe()
    assert hash(recipe) == hash(dataclasses.replace(recipe))
    assert dataclasses.asdict(recipe)["prune"]["ema_decays"] == (0.9,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.prune.lr = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError, match="PoolRecipe got two values for 'size'"):
        PoolRecipe(5, size=7)  # type: ignore[misc]
    with pytest.raises(TypeError, match="takes 5 values"):
        StudentRecipe("bk-tiny", 0.5, 0.5, (0.5,), (0,), 0.5)  # type: ignore[call-arg]


@section
class ShortRecipe(PruneRecipe):
    """Defined away from its base, whose types this module does not know."""

    images: int = 8
    ema_decays: tuple[float, ...] = (0.9,)


def test_a_section_may_be_extended_anywhere() -> None:
    assert (ShortRecipe().images, ShortRecipe().ema_decays, ShortRecipe().lr) == (8, (0.9,), PruneRecipe().lr)
    with pytest.raises(InputError, match=r"'ShortRecipe\.ema_decays' is empty"):
        ShortRecipe(ema_decays=())


def test_an_overridden_default_keeps_limits_and_description() -> None:
    described = {f.name: f.metadata["description"] for f in dataclasses.fields(Optimisation)}
    for kind in (PruneRecipe, AdversarialRecipe, AutoencoderRecipe):
        assert {f.name: f.metadata["description"] for f in dataclasses.fields(kind) if f.name in described} == described
    assert AutoencoderRecipe().cache_images != Optimisation().cache_images
    with pytest.raises(InputError, match="cache_images' must be from 1 to"):
        AutoencoderRecipe(cache_images=0)
    with pytest.raises(InputError, match="ema_decays' must be from 0 to 1"):
        AdversarialRecipe(ema_decays=(1.5,))


# --- the JSON schema -------------------------------------------------------------------------------------------------


def test_the_schema_in_the_docs_is_current() -> None:
    stored = (ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8")
    wanted = "run: python -m genin.distill.recipe_docs --schema > docs/recipe.schema.json"
    assert json.loads(stored) == json_schema(), wanted


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    for name, kind in typing.get_type_hints(Recipe).items():
        found = followed(schema, schema["properties"][name])
        fields = dataclasses.fields(kind)
        assert list(found["properties"]) == [f.name for f in fields] and found["additionalProperties"] is False
        for f in fields:
            entry = found["properties"][f.name]
            assert entry["description"] == f.metadata["description"]
            assert entry["default"] == (list(f.default) if isinstance(f.default, tuple) else f.default)
            limits = {"minimum", "exclusiveMinimum", "items"}
            assert entry["type"] in ("boolean", "string") or limits & {*entry, *entry.get("items", ())}
            assert list(breaches(schema, entry, entry["default"])) == [], f.name
    assert followed(schema, schema["properties"]["pool"])["properties"]["teacher_steps"]["maximum"] == 64


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_that_we_recommend_is_one_that_runs(path: Path) -> None:
    from genin.distill.student.provenance import PHASES
    from genin.distill.student.run import check_batches, check_recipe

    recipe = load_recipe(path)
    phases = [name for name in PHASES if getattr(recipe, name).images > 0]
    check_recipe(recipe, phases, None)
    check_batches(recipe, phases, 2)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_schema_accepts_every_recipe_that_comes_along(path: Path) -> None:
    schema = json_schema()
    assert list(breaches(schema, schema, yaml.load(path.read_text(encoding="utf-8"), RecipeLoader))) == []
    load_recipe(path)


@pytest.mark.parametrize(
    "text",
    [
        "prune: {lrr: 1}",
        "prune: {lr: -1}",
        "steps: {huber_c: 0}",
        'prune: {lr: "1"}',
        "prune: {images: 1.5}",
        "prune: {mixed_precision: fp16}",
        "prune: {ema_decays: []}",
        "prune: {ema_decays: [2]}",
        "prne: {}",
        "prune: []",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(tmp_path: Path, text: str) -> None:
    schema = json_schema()
    assert list(breaches(schema, schema, yaml.load(text, RecipeLoader)))
    with pytest.raises(InputError):
        load_recipe(written(tmp_path, text))


def followed(schema: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """What an entry stands for: itself, or the definition that it refers to."""
    return schema["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry  # type: ignore[no-any-return]


TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
KEYWORDS = {
    *("$schema", "$defs", "$ref", "title", "description", "default", "type", "properties", "additionalProperties"),
    *("items", "minItems", "minimum", "exclusiveMinimum", "maximum", "enum"),
}


def breaches(schema: dict[str, Any], entry: dict[str, Any], value: Any, at: str = "recipe") -> typing.Iterator[str]:
    """Where a value breaks the schema, by the part of JSON Schema that ours uses."""
    entry = followed(schema, entry)
    assert entry.keys() <= KEYWORDS, entry.keys() - KEYWORDS
    kinds = TYPES[entry["type"]]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        yield f"{at} is no {entry['type']}"
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name in entry["properties"]:
                yield from breaches(schema, entry["properties"][name], inner, f"{at}.{name}")
            elif entry["additionalProperties"] is False:
                yield f"{at}.{name} is unknown"
    elif isinstance(value, list):
        if len(value) < entry.get("minItems", 0):
            yield f"{at} is too short"
        for inner in value:
            yield from breaches(schema, entry["items"], inner, f"{at}[]")
    elif "enum" in entry and value not in entry["enum"]:
        yield f"{at} is none of {entry['enum']}"
    elif isinstance(value, (int, float)) and value <= entry.get("exclusiveMinimum", value - 1):
        yield f"{value} is too small"
    elif isinstance(value, (int, float)) and not entry.get("minimum", value) <= value <= entry.get("maximum", value):
        yield f"{at} is out of its limits"


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
