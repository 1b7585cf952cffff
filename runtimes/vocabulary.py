"""Names of runtimes, precisions, formats and components, and the errors for unknown ones. No click.

Not here: options of the command line (`options`), what a runtime or a format is (`engine`, `genin.export.converters.formats`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from genin.runtimes.errors import InputError

RUNTIMES = ("pytorch", "onnxruntime", "openvino", "coreml", "native")
PRECISIONS = ("fp32", "fp16", "int8")
MORE_PRECISIONS = ("w8a8", "palette6", "palette4")  # made where they are asked for
FOLDER_PRECISIONS = ("fp32", "bf16", "fp16")  # of a model folder's UNet on PyTorch
FORMATS = ("onnx", "openvino", "coreml")
COMPONENTS = ("text_encoder", "unet", "vae_decoder")  # what drawing from text needs
VAE_ENCODER = "vae_encoder"  # for drawing from a picture; a bundle may lack it
ALL_COMPONENTS = (*COMPONENTS, VAE_ENCODER)
TEXT_TO_IMAGE = "text_to_image"  # all of it as a single graph
AUTO = "auto"
DEVICES = ("cpu", "cuda", "mps")  # of PyTorch, for model folders


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a wrong name: the nearest known ones, or all of them."""
    known = list(known)
    begun = [choice for choice in known if name and choice.startswith(name.lower())]  # onnx: onnxruntime
    close = begun or difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.6)
    choices = f"choose from {', '.join(known)}"
    return f"did you mean {' or '.join(close)}? ({choices})" if close else choices


def check_choice(value: str, choices: Sequence[str], what: str) -> str:
    """`value` if it is one of `choices`. Errors: InputError naming `what` and listing the choices."""
    if not isinstance(value, str):
        raise InputError(f"{what} {value!r} is not a text", remedy=f"choose from {', '.join(choices)}")
    if value not in choices:
        raise InputError(f"unknown {what} '{value}'", remedy=nearest(value, choices))
    return value


def check_text(value: str, what: str) -> str:
    """`value` if it is a text with something in it. Errors: InputError naming `what`."""
    if not isinstance(value, str) or not value:
        raise InputError(f"{what} must be a text; got {value!r}")
    return value


def check_device(name: str) -> str:
    """`name` if it is `cpu`, `cuda`, `cuda:1` or `mps`, here or not; `cpu:0` is `cpu`. Errors: InputError naming the nearest."""
    if not isinstance(name, str):
        raise InputError(f"device {name!r} is not a text", remedy=f"choose from {', '.join(DEVICES)}")
    kind, colon, index = name.partition(":")
    if kind not in DEVICES or (colon and not (index.isascii() and index.isdigit())):
        raise InputError(f"unknown device '{name}'", remedy=nearest(kind, DEVICES))
    return kind if kind == "cpu" else name


def split_choices(values: str | Iterable[str], choices: Sequence[str], what: str = "value") -> tuple[str, ...]:
    """One text with commas, or several, => the distinct choices in order. Errors: InputError listing the choices."""
    texts = [values] if isinstance(values, str) else list(values)
    names = [name.strip() for text in texts for name in text.split(",")]
    return tuple(dict.fromkeys(check_choice(name, choices, what) for name in names if name))
