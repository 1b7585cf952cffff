"""genin: distil a text-to-image teacher into a few-step student and ship it."""

from genin.runtimes.threads import set_wait_policy

__version__ = "0.1.0"

set_wait_policy()  # here, since OpenMP reads it when torch is imported
