"""From a recipe to the terms of a phase's objective: which ones it has, what they need, and building them.

Not here: the terms (`terms`), the loop (`training`), the order of phases (`distillation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genin.distill.recipe import Recipe
from genin.distill.student import kernel as kernel  # these two register them
from genin.distill.student import terms as terms
from genin.distill.student.loss_term import TERMS, PhaseContext, Term

Pretrained = dict[type[Term], Any]  # pretrained networks, by the term that needs them


def active_terms(phase: object) -> list[type[Term]]:
    """The registered terms that a phase's section of the recipe asks for, in their order; phases of other kinds have none."""
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
