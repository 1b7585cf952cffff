"""Errors within an export, where everything in it can import them without PyTorch. Users see those of `genin.runtimes.errors`."""

from __future__ import annotations


class UnknownOperationError(Exception):
    """A Core ML program holds an operation that its interpreter does not know: which says nothing against it."""
