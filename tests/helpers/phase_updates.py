"""One update of any phase, without a command line: the tiny teacher with a pool of eight rows in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genin.distill.loop.training import Training
from genin.distill.models.diffusion import Denoiser, Process, student_scheduler
from genin.distill.models.folder import ModelFolder
from genin.distill.models.guided import Guided
from genin.distill.models.pruning import build_student
from genin.distill.models.student_config import PRESETS
from genin.distill.models.text import embed
from genin.distill.recipe import PruneRecipe, Recipe, StepsRecipe
from genin.distill.student.objective import Pretrained, build_loss_terms
from genin.distill.student.phases import prune_step, steps_step
from genin.distill.student.pool import DistillationData, Pool
from genin.distill.student.terms.term import PhaseContext

ROWS = 8
TIMESTEPS = (999, 900, 620, 450, 120, 60)  # they straddle the few-step ones, and their gaps differ
COLOURS = ("orange", "sunset", "ninja", "mountain", "running", "under", "outfit", "meditating")


class Captions(Sequence[str]):
    """As much of a source as the phases ask for."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: Any) -> Any:
        return f"the {COLOURS[row]} mountain"

    def captions(self, rows: Sequence[int]) -> list[str]:
        return [self[row] for row in rows]

    def held_out(self) -> None:
        return None


def data_of(model: ModelFolder) -> DistillationData:
    """Random pictures, each with a straight way from its own noise; as many true ones."""
    device = torch.device("cpu")
    process = Process(student_scheduler(model.scheduler_config))
    with torch.no_grad():
        empty = embed(model.text_encoder, model.tokenizer, [""], device)
        texts = embed(model.text_encoder, model.tokenizer, Captions().captions(range(ROWS)), device)
    unet: Any = model.unet.requires_grad_(False)
    denoiser = Denoiser(unet, Process(model.scheduler_config), process)
    teacher = Guided(denoiser, model.text_encoder, model.tokenizer, empty, device, 3.0)
    x0, noise, true = torch.randn(3, ROWS, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    states = [process.add_noise(x0, noise, torch.full((ROWS,), t)) for t in TIMESTEPS]
    predictions = x0[:, None] + 0.1 * torch.randn(
        ROWS, len(TIMESTEPS), 4, 8, 8, generator=torch.Generator().manual_seed(6)
    )
    pool = Pool(torch.stack([*states, x0], 1).half(), predictions.half(), TIMESTEPS)
    return DistillationData(teacher, pool, Captions(), texts.half(), true.half())  # type: ignore[arg-type]


def begin(
    folder: Path,
    name: str,
    recipe: Recipe,
    model: ModelFolder,
    data: DistillationData,
    pretrained: Pretrained | None = None,
    student_vae: Any = None,
) -> tuple[Training, Any]:
    """A phase of a bk-small student that is about to begin: its training, and its step."""
    settings = getattr(recipe, name)
    training = Training(folder, name, settings)
    torch.manual_seed(0)
    student: nn.Module = build_student(model.unet, PRESETS["bk-small"])[0]
    with torch.no_grad():
        for weight in student.parameters():  # away from the teacher, whose encoder it begins with
            weight.add_(0.02 * torch.randn_like(weight))
    prepared = training.add("student", student)
    if isinstance(settings, PruneRecipe):
        return training, prune_step(training, prepared, data, settings)
    assert isinstance(settings, StepsRecipe)
    context = PhaseContext(
        training, data, model, recipe, settings, pretrained or {}, student=prepared, student_vae=student_vae
    )
    terms = build_loss_terms(context)
    return training, steps_step(training, prepared, data, settings, terms)


def updated(training: Training, step: Any, index: int = 0) -> dict[str, float]:
    """The figures of the phase's update `index`, the only one that is done."""
    training.state.update_index, training.state.images_seen = index, training.settings.images // 2
    return {name: float(value) for name, value in training.perform_update(step).items()}
