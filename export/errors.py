"""Errors within an export, in a module that all its parts can import without PyTorch. Users see those of
`genin.runtimes.errors`."""

from __future__ import annotations


class UnknownOperationError(Exception):
    """A Core ML program has an operation that genin's interpreter does not know; the program may still be right."""
