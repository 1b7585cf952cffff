"""What is fuzzed: every command that reads files, the files that are damaged, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A command and the files it reads. `seed` is a folder of WORK/seeds; one of `files` (patterns in it) is damaged; in `words`
    {in} is the copy of the folder and {out} a path to write. `weight`: its share of the mutations."""

    seed: str
    files: tuple[str, ...]
    words: str
    weight: int


BUNDLE = ("manifest.json", "*/*/tokenizer/*.json", "*/*/tokenizer/merges.txt", "*/*/tokenizer/*.txt", "**/*.json")
FOLDER = ("model_index.json", "genin.json", "*/config.json", "scheduler/*.json", "tokenizer/*")
PICTURES = ("*.png", "*.jpg", "*.webp", "*.gif", "*.tif", "*.bmp")
TABLES = ("metadata.jsonl", "*.csv", "*.parquet", "*.txt", "dataset.json")
DRAW = "--steps 1 --threads 1 --runtime onnxruntime --out {out}.png --json"
COMPARE = "compare {in}/bundle --prompts {in}/p.jsonl --runtime onnxruntime --steps 1 --out {out}.png"
PREPARE, INSPECT = "data prepare {in} --out {out} --json", "inspect {in} --json"
TUNE = (
    "teacher finetune --base {in}/model --data {in}/data --recipe {in}/recipe.json --out {in}/run --resume --threads 1"
)
DRAW_FOLDER = "generate ninja -m {in} --steps 1 --threads 1 --out {out}.png --json"
# fmt: off
TARGETS: Mapping[str, Target] = {
    "manifest": Target("bundle", BUNDLE, INSPECT, 60),
    "bundle": Target("bundle", (*BUNDLE, "**/*.onnx"), "generate ninja -m {in} " + DRAW, 50),
    "verify": Target("bundle", (*BUNDLE, "**/*.onnx", "golden/**/*"), "verify {in} --json", 20),
    "packed": Target("packed", ("model.genin",), "inspect {in}/model.genin --json", 40),
    "packed-draw": Target("packed", ("model.genin",), "generate ninja -m {in}/model.genin " + DRAW, 25),
    "folder": Target("model", FOLDER, INSPECT, 50),
    "weights": Target("model", ("*/*.safetensors",), INSPECT, 30),
    "folder-draw": Target("model", (*FOLDER, "*/*.safetensors"), DRAW_FOLDER, 30),
    "lora": Target("merge", ("lora.safetensors",), "teacher merge {in}/model --lora {in}/lora.safetensors --out {out}", 30),
    "recipe": Target("recipe", ("*.yaml",), "distill --dry-run --recipe {in}/recipe.yaml --json", 60),
    "plan": Target("plan", ("plan.json",), "export {in}/model --plan {in}/plan.json --format onnx --out {out}", 1),
    "table": Target("table", TABLES, "data inspect {in} --json", 70),
    "csv": Target("csv", ("metadata.csv",), PREPARE, 50),
    "parquet": Target("parquet", ("*.parquet",), PREPARE, 25),
    "sidecars": Target("sidecars", ("*.txt",), "data inspect {in} --json", 30),
    "shards": Target("shards", ("*.tar",), "data inspect {in} --json", 50),
    "edit": Target("edit", ("new.csv", "data/metadata.jsonl"), "data edit {in}/data --from {in}/new.csv", 40),
    "edit-lines": Target("edit", ("new.jsonl", "data/dataset.json"), "data edit {in}/data --from {in}/new.jsonl", 30),
    "edit-all": Target("edit", ("data/metadata.jsonl",), "data edit {in}/data --regex ninja cat --json", 15),
    "page": Target("edit", ("data/*",), "data edit {in}/data --to {out}.html", 20),
    "shard": Target("edit", ("data/*",), "data shard {in}/data --out {out} --json", 25),
    "pictures": Target("pictures", PICTURES, PREPARE, 70),
    "picture": Target("pictures", PICTURES, "data inspect {in} --sheet {out}.png --json", 40),
    "drawn": Target("drawn", ("drawn.png",), "inspect {in}/drawn.png --json", 30),
    "start": Target("start", ("start.png",), "generate ninja -m {in}/bundle --image {in}/start.png " + DRAW, 20),
    "film": Target("film", ("*.mp4",), PREPARE, 8),
    "comic": Target("comic", ("*.cbz",), PREPARE, 30),
    "prompts": Target("prompts", ("*.jsonl",), COMPARE, 8),
    "resume": Target("run", ("run/training/*", "run/training/**/*", "recipe.json"), TUNE, 2),
}
# fmt: on
