"""The interface of a loss term: how it is built, what it is called with, what it costs.

Not here: which terms there are, and how to add one (`objective`).
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.loop.memory import Parts, PhaseSizes
from genin.distill.loop.training import Training
from genin.distill.models.folder import ModelFolder
from genin.distill.recipe import Recipe, StepsRecipe
from genin.distill.student.features import FeatureExtractor, Features, TeacherFeatures, View
from genin.distill.student.pool import DistillationData

Figures = dict[str, Tensor | float]


@dataclass(frozen=True)
class StudentBatch:
    """The pictures at the end of a rollout and their targets, latents (N, C, h, w), with their captions' states: this process's
    part of the batch. `batch_rows` are the pool's rows for the whole global batch; `update` is the update in progress."""

    picture: Tensor
    target: Tensor
    text: Tensor
    batch_rows: Tensor
    update: Update
    timestep: int = 0  # of the last step, which has predicted the picture
    _features: dict[FeatureExtractor, tuple[View, Features]] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> Tensor:
        """The pool's rows of these pictures, (N,)."""
        return self.batch_rows[self.update.offset : self.update.offset + self.update.batch]

    def features_of(self, extractor: FeatureExtractor) -> tuple[View, Features]:
        """This update's view, and the pictures' features in it, with gradients; computed once per update for all terms."""
        if extractor not in self._features:
            view = extractor.draw_view(self.update, self.picture)
            self._features[extractor] = view, extractor(self.picture, self.text, view, gradients=True)
        return self._features[extractor]


@dataclass(frozen=True)
class PhaseContext:
    """A phase that begins: its training, its data, its section of the recipe (`phase`). `pretrained` is what `Term.load` has
    returned, by term; with `resume`, trainings continue from their checkpoints."""

    training: Training
    data: DistillationData
    teacher: ModelFolder
    recipe: Recipe
    phase: Any
    pretrained: Mapping[type[Term], Any] = field(default_factory=dict)
    resume: bool = False
    student: nn.Module | None = None  # the phase's network, as it is trained
    student_vae: Any = None  # the autoencoder that the student starts with, where it is not the teacher's

    @property
    def vae(self) -> Any:
        """The autoencoder whose decoder draws the student's pictures, frozen."""
        vae = self.teacher.vae if self.student_vae is None else self.student_vae
        return vae.to(self.training.device).requires_grad_(False).eval()

    @cached_property
    def teacher_features(self) -> TeacherFeatures:
        """One extractor for all terms, so that they share its passes."""
        return TeacherFeatures(self.training, self.data.teacher, self.phase.max_noise_timestep)


@dataclass(frozen=True)
class Memory:
    """Bytes that a term takes: its own trained networks, and activations. Entries of the same name in two terms are counted
    once."""

    networks: Parts = field(default_factory=dict)
    activations: Parts = field(default_factory=dict)


class Term(ABC):
    """A term of the objective. The class knows which phases have the term and what it costs; an instance belongs to one phase."""

    section: ClassVar[type[StepsRecipe]] = StepsRecipe  # the recipe's section that has the key; subclasses have it, too
    key: ClassVar[str]  # the key of that section that holds the term's weight

    def __init_subclass__(cls, **options: Any) -> None:
        """Errors: TypeError if the term's section of the recipe has no key of that name."""
        super().__init_subclass__(**options)
        if (key := getattr(cls, "key", "")) not in (keys := [f.name for f in fields(cls.section)]):
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise TypeError(f"{cls.__name__}.key: {cls.section.__name__} has no key '{key}'{hint}")

    @classmethod
    def is_active(cls, phase: object) -> bool:
        """Whether a phase's section of the recipe gives the term a weight. Otherwise its networks are not even built."""
        return isinstance(phase, cls.section) and getattr(phase, cls.key) > 0

    @classmethod
    def check(cls, recipe: Recipe, phase: Any) -> None:
        """Errors: InputError for settings that it cannot work with."""
        return

    @classmethod
    def load(cls, phases: Sequence[Any]) -> Any:
        """Load the pretrained networks that these phases' sections name, before any work.

        Errors: InputError or MetricUnavailableError naming what is missing.
        """
        return None

    @classmethod
    @abstractmethod
    def build(cls, context: PhaseContext) -> Self:
        """The term for a phase that begins; its own networks are registered with the phase's training."""

    @classmethod
    def memory(cls, phase: Any, sizes: PhaseSizes) -> Memory:
        """The memory that it takes at the peak of an update."""
        return Memory()

    @classmethod
    def operations(cls, phase: Any, sizes: PhaseSizes) -> Mapping[str, float]:
        """Multiply-adds of an update for one picture, by pass; passes of the same name in two terms are counted once."""
        return {}

    @classmethod
    def lighter(cls, phase: Any) -> Mapping[str, Any]:
        """Settings of the phase with which it takes less memory."""
        return {}

    @abstractmethod
    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        """Its share of the loss, weighted, and figures for the log."""
