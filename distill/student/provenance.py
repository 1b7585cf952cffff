"""What a student is made from, and how its model folder records it.

Not here: the training (`distillation`), how folders are written (`models.folder`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genin.distill.data.dataset import joined_origins
from genin.distill.inputs.sources import Source, joined_licences
from genin.distill.models.diffusion import Process, student_scheduler
from genin.distill.models.folder import ModelFolder, load_model_folder
from genin.distill.models.pruning import narrowed_state
from genin.distill.recipe import Recipe
from genin.runtimes.errors import InputError
from genin.runtimes.origin import fingerprint

PHASES = ("prune", "steps", "adversarial", "decoder")  # in their order; each is a section of the recipe


@dataclass(frozen=True)
class StartingStudent:
    """What a student passes on to the one that starts from its weights; `recipe` is what made it, with its name and
    fingerprint; `latent_space` is that of its teacher, where its folder says so; `is_wider` says that it had more channels."""

    data: str
    licence: str
    origins: Sequence[Mapping[str, Any]]
    images_seen: int
    recipe: dict[str, Any]
    vae: Any
    latent_space: str | None
    is_wider: bool

    def decodes_latents_of(self, teacher_vae: Any) -> bool:
        """Whether its autoencoder was made for the latents of this teacher, or has the teacher's own encoder."""
        if self.latent_space is not None:
            return self.latent_space == latent_space(teacher_vae)
        return type(self.vae) is type(teacher_vae) and latent_space(self.vae) == latent_space(teacher_vae)


def load_starting_student(unet: Any, path: Path, name: str) -> StartingStudent:
    """Copy the weights of the student at `path` into a UNet of preset `name`; of a wider one the best channels are kept.

    Errors: InputError if it is not such a student.
    """
    start = load_model_folder(path)
    remedy = "give a student of the same preset and teacher, or name another student in the recipe"
    if start.info.get("kind") != "student":
        raise InputError("not a student", where=path, remedy=remedy)
    state = narrowed_state(unet, start.unet)
    if state is None:
        raise InputError(f"not the shape of {name}", where=path / "unet", remedy=remedy)
    unet.load_state_dict(state)
    info = start.info
    identity = {"name": str(info.get("name") or path.name), "fingerprint": fingerprint(path)}
    return StartingStudent(
        str(info.get("data") or "unknown"),
        str(info.get("licence") or "unknown"),
        info.get("origins") or (),
        int(info.get("images_seen") or 0),
        {**identity, **(info.get("recipe") or {})},
        start.vae,
        info.get("latent_space"),
        list(start.unet.config.block_out_channels) != list(unet.config.block_out_channels),
    )


def latent_space(vae: Any) -> str:
    """What is the same for autoencoders that give the same latents: a fingerprint of the encoder, at half precision, in which it
    may have been stored, and of the scale."""
    digest = hashlib.sha256(str(float(vae.config.scaling_factor)).encode())
    for name, weight in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def trained_step_counts(recipe: Recipe) -> list[int]:
    """The numbers of steps that a recipe's phases train, the largest first."""
    trained = [phase for phase in (recipe.steps, recipe.adversarial) if phase.images > 0] or [recipe.steps]
    return sorted({count for phase in trained for count in phase.step_counts}, reverse=True)


@dataclass(frozen=True)
class Provenance:
    """The teacher, pictures and recipe of a student, and the student whose weights it started from."""

    teacher: ModelFolder
    source: Source
    recipe: Recipe
    start: StartingStudent | None = None

    def model_folder(self, unet: Any, vae: Any, path: Path, images_seen: int) -> ModelFolder:
        """The student as a model folder: the teacher's text encoder and schedule, its own UNet and decoder. `images_seen` includes
        those of the student that it started from."""
        teacher, start = self.teacher, self.start
        scheduler = student_scheduler(teacher.scheduler_config)
        process, counts = Process(scheduler), trained_step_counts(self.recipe)
        sections = ("student", "pool", "alignment", *PHASES)
        made_by = {key: value for key, value in self.recipe.as_dict().items() if key in sections}
        data, licences = [self.source.name], [teacher.info.get("licence", "unknown"), self.source.licence]
        if start is not None:
            made_by["init"] = start.recipe
            data, licences = [start.data, *data], [*licences, start.licence]
        origins = joined_origins(
            teacher.info.get("origins", ()), self.source.origins, () if start is None else start.origins
        )
        info = {
            "kind": "student",
            "parent": str(teacher.info.get("name") or teacher.path.name),
            "data": ", ".join(dict.fromkeys(data)),
            "licence": joined_licences(*licences),
            "origins": origins,
            "latent_space": latent_space(teacher.vae),
            "guidance": "baked",
            "guidance_scale": 1.0,
            "default_steps": counts[0],
            "few_step_timesteps": {str(count): process.trailing_timesteps(count) for count in counts},
            "image_size": teacher.image_size,
            "images_seen": images_seen,
            "recipe": made_by,
            "metrics": {},
        }
        return ModelFolder(path, teacher.tokenizer, teacher.text_encoder, unet, vae, scheduler, info)
