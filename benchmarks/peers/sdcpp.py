"""stable-diffusion.cpp through its Python package, on the model folder's own weights.

It draws its own noise from a seed, so its pictures are other ones than genin's. Not here: the table of peers (`table`).
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from genin.benchmarks.peers.opened import Opened, Picture, Subject
from genin.runtimes.errors import GeninError

WEIGHTS = {"fp32": "f32", "fp16": "f16"}


def open_sdcpp(subject: Subject) -> Opened:
    package: Any = importlib.import_module("stable_diffusion_cpp")
    settings = {"n_threads": subject.threads, "wtype": WEIGHTS[subject.precision], "verbose": False}
    pipe = package.StableDiffusion(model_path=str(subject.folder), vae_decode_only=True, **settings)
    if not pipe.model:  # a null pointer: drawing would end the process
        raise GeninError("it cannot read this model: it knows the networks of Stable Diffusion alone")
    height, width = subject.side
    trailing = subject.constants.sampler.scheduler.get("timestep_spacing") == "trailing"
    options: dict[str, Any] = {
        "width": width,
        "height": height,
        "sample_steps": subject.steps,
        "cfg_scale": subject.guidance_scale,
    }
    options["sample_method"] = "ddim_trailing" if trailing else "euler"

    def draw(prompt: str, seed: int) -> Picture:
        [picture] = pipe.generate_image(prompt=prompt, seed=seed, **options)
        return np.asarray(picture.convert("RGB"))

    return Opened(draw)
