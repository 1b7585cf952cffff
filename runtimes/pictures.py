"""A finished picture: pixels, and what it takes to draw it again, which goes into the file.

Not here: drawing (`pipeline`), what the command line calls a file (`commands`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.arguments import local_path
from genin.runtimes.errors import InputError
from genin.runtimes.files import atomic_path, refused_write
from genin.runtimes.vocabulary import nearest

if TYPE_CHECKING:
    from PIL import Image

# Suffix => Pillow's name of the format. Only a PNG holds the settings as text fields.
FORMATS: Mapping[str, str] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SOFTWARE = "genin"


# Text fields of a PNG => how each is read again. Those of `settings` are arguments of a pipeline, the others its own.
SETTINGS: Mapping[str, Callable[[str], Any]] = {
    "prompt": str,
    "seed": int,
    "steps": int,
    "guidance_scale": float,
    "size": lambda text: tuple(map(int, reversed(text.split("x")))),
    "noise": str,
    "strength": float,
}
ORIGIN = ("model", "runtime", "precision", "licence", "model_sha256")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture: `array` is (H, W, 3) uint8, RGB. `settings` are the arguments that draw it again: `pipe(**picture.settings)`, with
    `image` and `mask` where it was drawn from an image. `origin` says what drew it: model, runtime and precision, the model's
    licence and the sha256 of its weights.

    numpy takes it as an array, Jupyter shows it. Two are equal if their pixels and settings are.
    """

    array: NDArray[np.uint8]
    settings: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Picture:
        """Read a picture file of any kind, upright; of a PNG that `save` wrote, its settings and origin, too.

        Errors: InputError if there is no such picture, it cannot be read, or its settings were damaged.
        """
        from genin.runtimes.picture_files import PictureError, opened, reasons, to_rgb

        path = local_path(path, "the picture")
        try:
            with reasons(path), opened(path) as image:
                image.load()
                info = image.info if image.info.get("Software") == SOFTWARE else {}
                array = np.array(to_rgb(image, path))
        except PictureError as error:
            if not path.exists():
                raise InputError("no such picture", where=path) from error
            raise InputError(f"this cannot be read as a picture: {error.what}", where=path) from error
        try:
            settings = {name: read(info[name]) for name, read in SETTINGS.items() if name in info}
        except ValueError as error:
            raise InputError("the picture's settings are damaged", where=path) from error
        return cls(array, settings, {name: str(info[name]) for name in ORIGIN if name in info})

    @property
    def prompt(self) -> str:
        """What was asked for."""
        return str(self.settings.get("prompt", ""))

    @property
    def seed(self) -> int:
        """Of its noise."""
        return int(self.settings.get("seed", 0))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array: (height, width, 3)."""
        return self.array.shape

    def save(self, path: str | Path) -> Path:
        """Write a PNG with the settings as text fields, a JPEG or a WebP, by the suffix; whole or not at all. Returns the path.

        Errors: InputError for another suffix, or if it cannot be written there; GeninError where the disk is full.
        """
        path = local_path(path, "the picture")
        if path.suffix.lower() not in FORMATS:
            remedy = nearest(path.suffix, tuple(FORMATS)) if path.suffix else "let the name end in .png"
            raise InputError(f"a picture cannot be saved as '{path.suffix}'", where=path, remedy=remedy)
        try:
            with atomic_path(path) as partial:
                partial.write_bytes(self.encoded(FORMATS[path.suffix.lower()]))
        except OSError as error:
            refused = refused_write(error, path)
            raise refused or InputError(f"cannot write the picture ({error.strerror})", where=path) from error
        return path

    def encoded(self, format: str = "PNG") -> bytes:
        """The bytes of a file: PNG (with the settings as text fields), JPEG or WebP. Errors: InputError for another format."""
        suffix = f".{format.lower()}"
        if suffix not in FORMATS:
            raise InputError(f"a picture cannot be encoded as '{format}'", remedy="choose from PNG, JPEG, WEBP")
        format = FORMATS[suffix]
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("Software", SOFTWARE)
        for name, value in {**self.settings, **self.origin}.items():
            # a size as pictures are named, the width first
            info.add_itxt(name, "x".join(map(str, reversed(value))) if name == "size" else str(value))
        stream = io.BytesIO()
        options: dict[str, Any] = {"pnginfo": info} if format == "PNG" else {"quality": 95}
        self.to_pil().save(stream, format=format, **options)
        return stream.getvalue()

    def to_pil(self) -> Image.Image:
        """As a Pillow image."""
        from PIL import Image

        return Image.fromarray(self.array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Picture):
            return NotImplemented
        return np.array_equal(self.array, other.array) and dict(self.settings) == dict(other.settings)

    __hash__ = None  # type: ignore[assignment]  # its pixels can be changed

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.array, dtype=dtype) if copy else np.asarray(self.array, dtype=dtype)

    def _repr_png_(self) -> bytes:
        return self.encoded()

    def __repr__(self) -> str:
        height, width = self.array.shape[:2]
        return f"<Picture {width}x{height} of {self.prompt!r}, seed {self.seed}>"
