"""OpenVINO GenAI's `Text2ImagePipeline`: its own tokenizer, scheduler and sampling loop in C++.

It takes a generator of noise, which here hands out genin's. Not here: the table of peers (`table`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genin.benchmarks.peers.opened import Opened, Picture, Subject
from genin.runtimes.errors import GeninError
from genin.runtimes.wording import counted


def open_genai(subject: Subject) -> Opened:
    import openvino
    import openvino_genai

    if not subject.steps_are_a_schedulers():
        raise GeninError(
            f"its scheduler has not the timesteps that the model was trained for at {counted(subject.steps, 'step')}"
        )

    class Noise(openvino_genai.Generator):  # type: ignore[misc]  # untyped
        """genin's noise for the seed that is set."""

        def __init__(self) -> None:
            openvino_genai.Generator.__init__(self)
            self.seed = 0

        def randn_tensor(self, shape: Any) -> Any:
            return openvino.Tensor(subject.noise(self.seed).reshape(list(shape)))

    # Left alone, OpenVINO would compute in bf16 where the processor has it: other pictures, other figures.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": subject.threads}
    pipe = openvino_genai.Text2ImagePipeline(str(subject.folder), "CPU", **settings)
    noise = Noise()
    height, width = subject.side
    options: dict[str, Any] = {"height": height, "width": width, "num_inference_steps": subject.steps}
    options["guidance_scale"] = subject.guidance_scale

    def draw(prompt: str, seed: int) -> Picture:
        noise.seed = seed
        picture: Picture = np.array(pipe.generate(prompt, **options, generator=noise).data[0])
        return picture

    return Opened(draw)
