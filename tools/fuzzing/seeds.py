"""Valid files of every kind that genin reads, made by genin and its test helpers; a mutation damages copies of them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("merge", "plan", "recipe", "prompts", "packed", "csv", "parquet", "sidecars", "shards", "edit", "pictures")
FEW = {"images": 8, "batch_size": 4, "preview_images": 1, "held_out_images": 0, "lr_warmup_images": 1, "lora_rank": 2}


def write_seeds(folder: Path) -> None:
    """Valid files of every kind, below `folder`; made anew where the code that makes them has changed."""
    code = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    ).hexdigest()
    stamp = folder / "made-by.txt"
    if stamp.is_file() and stamp.read_text() == code:
        return
    shutil.rmtree(folder, ignore_errors=True)
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]
    new = folder.with_name("seeds.partial")
    shutil.rmtree(new, ignore_errors=True)
    for name in (*FOLDERS, "drawn", "start", "film", "comic"):
        (new / name).mkdir(parents=True)
    _models(new)
    _recipes(new)
    _bundles(new)
    _datasets(new)
    _pictures(new)
    _films(new)
    _training(new)
    (new / "made-by.txt").write_text(code)
    new.rename(folder)


def _run(*words: str | Path) -> None:
    from genin.cli import run

    assert run([*map(str, words)]) == 0, words


def _models(new: Path) -> None:
    import torch
    from safetensors.torch import save_file

    import conftest

    conftest.write_tiny_model(new / "model")
    (new / "model" / "genin.json").write_text(json.dumps(conftest.STUDENT_INFO), "utf-8")
    shutil.copytree(new / "model", new / "merge" / "model")
    (new / "merge" / "model" / "genin.json").unlink()
    shutil.copytree(new / "model", new / "plan" / "model")
    unet = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file(
        {f"{unet}.lora_A.weight": torch.ones(2, 32), f"{unet}.lora_B.weight": torch.ones(32, 2)},
        new / "merge" / "lora.safetensors",
    )


def _recipes(new: Path) -> None:
    plan = {"genin_plan": 1, "name": "mixed", "default": "fp16", "layers": {}}
    (new / "plan" / "plan.json").write_text(json.dumps(plan))
    shutil.copy(ROOT / "recipes" / "pictures.yaml", new / "recipe" / "recipe.yaml")


def _bundles(new: Path) -> None:
    from tiny_bundle import write_tiny_bundle

    write_tiny_bundle(new / "model", new / "bundle", ("onnx",))
    for place in ("prompts", "start"):
        shutil.copytree(new / "bundle", new / place / "bundle")
    fp16 = ("--format", "onnx", "--precision", "fp16")
    _run("export", new / "model", *fp16, "--out", new / "packed" / "model.genin")
    (new / "prompts" / "p.jsonl").write_text('{"text": "a ninja"}\n{"text": "two ninjas"}\n', "utf-8")
    drawn = new / "drawn" / "drawn.png"
    _run("generate", "ninja", "-m", new / "bundle", "--runtime", "onnxruntime", "--out", drawn)


def _datasets(new: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    from tunable import write_pictures

    data = write_pictures(new / "table", 6, size=32)
    (data / "dataset.json").write_text('{"columns": ["text"], "licence": "CC0-1.0"}')
    shutil.copytree(data, new / "edit" / "data")
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text("utf-8").splitlines()]
    (new / "edit" / "new.csv").write_text('file_name,text\n0.png,a red ninja\n1.png,"two, ninjas"\n', "utf-8")
    (new / "edit" / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]), "utf-8")
    for place in ("csv", "sidecars", "pictures", "parquet"):
        for row in rows[:4]:
            shutil.copy(data / row["file_name"], new / place)
    lines = [f"{row['file_name']};{row['text']};{number}\n" for number, row in enumerate(rows[:4])]
    (new / "csv" / "metadata.csv").write_text("file_name;text;number\n" + "".join(lines), "utf-8")
    for row in rows[:4]:
        (new / "sidecars" / row["file_name"]).with_suffix(".txt").write_text(row["text"] + " é 忍", "utf-8")
    stored = [{"bytes": (data / row["file_name"]).read_bytes(), "path": row["file_name"]} for row in rows]
    table = pyarrow.table({"image": stored, "text": [row["text"] for row in rows]})
    parquet.write_table(table, new / "parquet" / "train.parquet")
    _run("data", "shard", data, "--out", new / "made", "--per-shard", "3")
    for path in (new / "made").glob("*.tar"):
        shutil.copy(path, new / "shards")


def _pictures(new: Path) -> None:
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (48, 40, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("a.jpg", "b.webp", "c.gif", "d.tif", "e.bmp"):
        options: dict[str, Any] = {"exif": turned} if name in ("a.jpg", "b.webp") else {}
        picture.save(new / "pictures" / name, **options)
    picture.resize((32, 32)).save(new / "start" / "start.png")


def _films(new: Path) -> None:
    import films

    films.write_film(new / "film" / "a.mp4", [films.scene(seed // 12, seed, (160, 96)) for seed in range(36)])
    with zipfile.ZipFile(new / "comic" / "a.cbz", "w") as archive:
        for number in range(2):
            page = io.BytesIO()
            films.scene(number, 0, (200, 300)).save(page, "PNG")
            archive.writestr(f"page{number}.png", page.getvalue())


def _training(new: Path) -> None:
    """A training that was stopped: a teacher of a few updates, to be resumed."""
    place = new / "run"
    place.mkdir()
    shutil.copytree(new / "table", place / "data")
    shutil.copytree(new / "model", place / "model")
    (place / "model" / "genin.json").unlink()
    recipe = place / "recipe.json"
    recipe.write_text(json.dumps({"finetune": FEW | {"images": FEW["images"] // 2}}))
    begin = ("teacher", "finetune", "--base", place / "model", "--data", place / "data", "--out", place / "run")
    _run(*begin, "--recipe", recipe, "--threads", "1")
    recipe.write_text(json.dumps({"finetune": FEW}))  # half of its images are left
