"""genin: distil a text-to-image teacher into a few-step student and ship it."""

__version__ = "0.1.0"
