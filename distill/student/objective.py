"""From a recipe to the terms of a phase's objective: which ones there are, what they need, and building them.

Each term is a class in `terms`, and has one weight in the recipe:

| term | recipe | the student's picture should be |
|---|---|---|
| `Perceptual` | `perceptual_weight` | near the target, in a frozen network's features |
| `LpipsTerm` | the same, `perceptual_features: lpips` | the same by LPIPS, on decoded pictures |
| `Adversarial` | `adversarial_weight` | classified as true by a discriminator |
| `PictureAdversarial` | `picture_adversarial_weight` | the same when it is decoded |
| `AddDistillation` | `distillation_weight` | what the teacher makes of it, noised (ADD) |
| `Matching` | `matching_weight` | as likely among the teacher's pictures as among the student's |
| `Kernel` | `kernel_weight` | in a set of them, spread as true pictures of the caption are |
| `Alignment` | `alignment_weight` | recognised by its own caption among others |

How to add one: CONTRIBUTING.md.

Not here: the regression onto the target (`phases`), a phase's other costs (`cost`), the loop (`training`), the order of phases
(`distillation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genin.distill.recipe import Recipe
from genin.distill.student.terms.adversarial import Adversarial, PictureAdversarial
from genin.distill.student.terms.alignment import Alignment
from genin.distill.student.terms.kernel import Kernel
from genin.distill.student.terms.perceptual import LpipsTerm, Perceptual
from genin.distill.student.terms.score_distillation import AddDistillation, Matching
from genin.distill.student.terms.term import PhaseContext, Term

TERMS: tuple[type[Term], ...] = (  # in the order in which a phase builds and adds them up
    *(Kernel, Perceptual, LpipsTerm, Adversarial, PictureAdversarial, AddDistillation, Matching, Alignment),
)

Pretrained = dict[type[Term], Any]  # pretrained networks, by the term that needs them


def active_terms(phase: object) -> list[type[Term]]:
    """The terms that a phase's section of the recipe asks for, in their order; phases of other kinds have none."""
    return [term for term in TERMS if term.is_active(phase)]


def check_terms(recipe: Recipe, phases: Sequence[str]) -> None:
    """Errors: InputError for settings of the named phases that their terms cannot work with."""
    for phase in (getattr(recipe, name) for name in phases):
        for term in active_terms(phase):
            term.check(recipe, phase)


def load_pretrained(recipe: Recipe, phases: Sequence[str]) -> Pretrained:
    """The pretrained networks that the terms of the named phases need, loaded before any work. Errors: as `Term.load`."""
    needed: dict[type[Term], list[Any]] = {}
    for phase in (getattr(recipe, name) for name in phases):
        for term in active_terms(phase):
            needed.setdefault(term, []).append(phase)
    return {term: term.load(sections) for term, sections in needed.items()}


def build_loss_terms(context: PhaseContext) -> list[Term]:
    """The terms that a phase's recipe asks for, besides the regression; their own networks are registered with the phase's
    training."""
    return [term.build(context) for term in active_terms(context.phase)]
