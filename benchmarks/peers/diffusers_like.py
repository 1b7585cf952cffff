"""Peers with the pipelines of diffusers: diffusers itself, eager and compiled, and optimum's on ONNX Runtime and OpenVINO.

All take latents, so that they draw from genin's noise, and are given DDIM, which is what genin samples with: a folder's own
scheduler (PNDM, say) would draw other pictures. Not here: measuring, the table of peers (`table`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genin.benchmarks.peers.opened import Opened, Picture, Subject
from genin.runtimes.errors import GeninError
from genin.runtimes.wording import counted

F32 = "f32"  # left alone, OpenVINO computes in bf16 where the processor has it: other pictures, other figures


def open_diffusers(subject: Subject) -> Opened:
    """Eager, in fp32 on the processor."""
    return _opened(_diffusers(subject), subject)


def open_compiled(subject: Subject) -> Opened:
    """The UNet and the decoder through `torch.compile`, with its defaults."""
    import torch

    pipe = _diffusers(subject)
    pipe.unet = torch.compile(pipe.unet)
    pipe.vae.decode = torch.compile(pipe.vae.decode)
    return _opened(pipe, subject)


def open_optimum_onnx(subject: Subject) -> Opened:
    import onnxruntime
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = subject.threads
    # As genin's own sessions: of several thread pools, one that spins after its work takes a core from the next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    pipe = ORTStableDiffusionPipeline.from_pretrained(subject.folder, session_options=options)
    return _opened(pipe, subject, "CPUExecutionProvider")


def open_optimum_intel(subject: Subject) -> Opened:
    from optimum.intel import OVStableDiffusionPipeline

    settings = {"INFERENCE_PRECISION_HINT": F32, "INFERENCE_NUM_THREADS": str(subject.threads)}
    pipe = OVStableDiffusionPipeline.from_pretrained(subject.folder, ov_config=settings, device="CPU")
    return _opened(pipe, subject)


def _diffusers(subject: Subject) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(subject.threads)
    kept = {"local_files_only": True, "torch_dtype": torch.float32}
    return StableDiffusionPipeline.from_pretrained(
        subject.folder, safety_checker=None, feature_extractor=None, requires_safety_checker=False, **kept
    )


def _opened(pipe: Any, subject: Subject, provider: str = "CPU") -> Opened:
    import torch
    from diffusers import DDIMScheduler

    if not subject.steps_are_a_schedulers():
        raise GeninError(
            f"its scheduler has not the timesteps that the model was trained for at {counted(subject.steps, 'step')}"
        )
    torch.set_num_threads(subject.threads)
    pipe.scheduler = DDIMScheduler.from_config(_ddim(subject))
    pipe.set_progress_bar_config(disable=True)
    height, width = subject.side
    settings: dict[str, Any] = {"num_inference_steps": subject.steps, "guidance_scale": subject.guidance_scale}
    settings |= {"height": height, "width": width, "output_type": "np"}

    def draw(prompt: str, seed: int) -> Picture:
        with torch.inference_mode():
            [picture] = pipe(prompt, latents=torch.from_numpy(subject.noise(seed)), **settings).images
        return np.asarray(picture * 255).round().astype(np.uint8)

    return Opened(draw, provider)


def _ddim(subject: Subject) -> dict[str, Any]:
    """The model's schedule for DDIM. Other schedulers of latent models neither clip nor say so."""
    own = dict(subject.constants.sampler.scheduler)
    foreign = own.pop("_class_name", "DDIMScheduler") != "DDIMScheduler"
    return {"clip_sample": False, **own} if foreign else own
