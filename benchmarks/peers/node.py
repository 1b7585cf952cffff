"""onnxruntime-web under Node: ONNX Runtime's WebAssembly, as a web page runs it, on a bundle's ONNX graphs.

The program (`onnxruntime_web.cjs`) draws genin's noise and takes DDIM's steps by itself; it gets token ids in place of prompts, and
the coefficients of every step. It answers the requests of `genin.benchmarks.speed.bench_worker`. Not here: the table of peers
(`table`).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from genin.runtimes.bundle import Bundle
from genin.runtimes.errors import GeninError
from genin.runtimes.loading import bundle_tokenizer
from genin.runtimes.manifest import Manifest
from genin.runtimes.samplers import Schedule
from genin.runtimes.vocabulary import COMPONENTS

PROGRAM: Final = Path(__file__).with_name("onnxruntime_web.cjs")
LIMIT_S: Final = 60.0
FORMAT: Final = "onnx"


def is_installed() -> bool:
    return version() is not None


@lru_cache(maxsize=1)
def version() -> str | None:
    """The release of onnxruntime-web that Node finds from the present folder; None without either."""
    if (node := shutil.which("node")) is None:
        return None
    try:
        done = subprocess.run(
            [node, str(PROGRAM), "version"], capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def command() -> list[str]:
    """Node, with the program."""
    return [shutil.which("node") or "node", str(PROGRAM)]


def first_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the program is told first: graphs, tokens, steps. Errors: GeninError for a bundle that it cannot open."""
    path = Path(request["path"])
    if path.is_file():
        raise GeninError("it opens bundle folders, not packed ones", remedy="unzip it into a folder")
    with Bundle.open(path) as bundle:
        manifest, constants = bundle.manifest, bundle.manifest.constants
        tokenizer = bundle_tokenizer(bundle)
        graphs = manifest.components(FORMAT, request["precision"])
        places = {name: str(bundle.local_graph(graphs[name])) for name in COMPONENTS}
    guidance = 1.0 if constants.sampler.guidance == "baked" else constants.sampler.guidance_scale
    prompts = list(dict.fromkeys([*request["prompts"], ""]))
    ids = tokenizer(prompts)
    return {
        "do": "open",
        "graphs": places,
        "tokens": dict(zip(prompts, ids.tolist(), strict=True)),
        "latents": list(constants.latents.shape),
        "scaling_factor": constants.latents.scaling_factor,
        "image": [constants.image.height, constants.image.width],
        "guidance_scale": guidance,
        "default_steps": constants.sampler.default_steps,
        "timestep_shape": _timestep_shape(graphs["unet"]),
        "prompt": request["prompt"],
        "seed": request["seed"],
        **{name: request[name] for name in ("runtime", "precision", "threads")},
        **_steps(manifest, request["steps"]),
    }


def _timestep_shape(unet: Any) -> list[int] | None:
    """A list for a graph that takes one timestep a picture, or one for all; None for a scalar."""
    [shape] = [tensor.shape for tensor in unet.inputs if tensor.name == "timestep"]
    return [1] if len(shape) else None


def _steps(manifest: Manifest, count: int) -> dict[str, Any]:
    """DDIM's coefficients at every step, as `genin.runtimes.samplers` computes them."""
    sampler = manifest.sampler
    schedule = Schedule.from_config(sampler.scheduler)
    explicit = (sampler.few_step_timesteps or {}).get(str(count))
    pairs = schedule.steps(count) if explicit is None else schedule.explicit_steps(explicit)
    steps = [[now, *schedule.alpha_sigma(now), *schedule.alpha_sigma(after)] for now, after in pairs]
    return {"steps": steps, "prediction_type": schedule.prediction_type, "clip": schedule.clip}
