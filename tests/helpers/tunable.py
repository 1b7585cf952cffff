"""What tuning is tested on: a small dataset folder of random pictures, and model folders of somebody else's."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """For test files that import it: loss curves are tested elsewhere, and matplotlib takes longer than a tiny training."""
    monkeypatch.setattr("genin.distill.loop.previews.plot_curves", lambda *_arguments, **_keywords: None)


def empty_curves(_rows: object, path: Path, *, title: str) -> None:
    """For fixtures that are built before `no_curves` and whose files are counted."""
    path.touch()


COLOURS = ("orange", "teal", "red", "green", "blue", "white")


def write_pictures(folder: Path, count: int = 24, *, val: int = 0, size: int = 64) -> Path:
    """`count` pictures of blocks, the last `val` of them held out; captions differ in colour and number."""
    folder.mkdir()
    generator = np.random.default_rng(3)
    rows = []
    for i in range(count):
        blocks = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST).save(folder / f"{i}.png")
        split = "val" if i >= count - val else "train"
        text = f"a ninja in {COLOURS[i % len(COLOURS)]} under the mountain {i // 2}"
        rows.append({"file_name": f"{i}.png", "text": text, "split": split, "licence": "CC0-1.0"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def with_random_unet(fixture: Path, out: Path) -> Path:
    """A copy of a diffusers folder whose UNet has a config only, with random weights for it; for smaller pictures, which take a
    quarter of the time; and with latents of unit deviation, which those of the fixture's random autoencoder are not."""
    import torch
    from diffusers import UNet2DConditionModel

    for part in fixture.iterdir():
        if part.is_dir() and part.name != "unet":
            out.mkdir(exist_ok=True)
            shutil.copytree(part, out / part.name)
            (out / part.name).chmod(0o755)
    shutil.copyfile(fixture / "model_index.json", out / "model_index.json")
    config = json.loads((fixture / "vae" / "config.json").read_text())
    (out / "vae" / "config.json").unlink()  # copies of read-only files
    (out / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 3.95}))
    torch.manual_seed(0)
    unet = UNet2DConditionModel.load_config(fixture / "unet") | {"sample_size": 16}
    UNet2DConditionModel.from_config(unet).save_pretrained(out / "unet")
    return out


def edited(folder: Path, out: Path, file: str, **changes: Any) -> Path:
    """A copy of a model folder with changes in one of its JSON files; None takes a key out."""
    shutil.copytree(folder, out)
    path = out / file
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return out


def in_two_processes(*program: str | Path, timeout_s: float = 300) -> None:
    """Run a Python program (its file and arguments) that calls `become_two`, and see that both of its processes end well."""
    started = subprocess.Popen(
        [sys.executable, *map(str, program)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = started.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)  # one of them has died, and the other waits for it
        said, _ = started.communicate()
    assert started.returncode == 0, said[-6000:]


def become_two() -> None:
    """Fork into two processes that work together as if `torchrun` had started them. Imports that were made before are not made
    twice; `torchrun` itself would be a third Python with torch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    child = os.fork()
    os.environ |= {"RANK": str(int(child == 0)), "LOCAL_RANK": str(int(child == 0))}
    if child:
        atexit.register(lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) and os._exit(1))
