"""A finished picture: pixels, and what it takes to draw it again, which goes into the file.

Not here: drawing (`pipeline`), what the command line calls a file (`commands`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.errors import InputError
from genin.runtimes.files import atomic_path
from genin.runtimes.vocabulary import nearest

if TYPE_CHECKING:
    from PIL import Image

# Suffix => Pillow's name of the format. Only a PNG holds the settings as text fields.
FORMATS: Mapping[str, str] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, eq=False)
class Picture:
    """`array` is (H, W, 3) uint8, RGB; `settings` is what draws it again: prompt, seed, steps, guidance scale, noise, model,
    runtime and precision. numpy takes it as an array, Jupyter shows it."""

    array: NDArray[np.uint8]
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """What was asked for."""
        return str(self.settings.get("prompt", ""))

    @property
    def seed(self) -> int:
        """Of its noise."""
        return int(str(self.settings.get("seed", 0)))

    def save(self, path: str | Path) -> Path:
        """Write a PNG with the settings as text fields, a JPEG or a WebP, by the suffix; whole or not at all. Returns the path.

        Errors: InputError for another suffix, or if it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in FORMATS:
            remedy = nearest(path.suffix, tuple(FORMATS)) if path.suffix else "let the name end in .png"
            raise InputError(f"a picture cannot be saved as '{path.suffix}'", where=path, remedy=remedy)
        try:
            with atomic_path(path) as partial:
                partial.write_bytes(self.encoded(FORMATS[path.suffix.lower()]))
        except OSError as error:
            raise InputError(f"cannot write the picture ({error.strerror})", where=path) from error
        return path

    def encoded(self, format: str = "PNG") -> bytes:
        """The bytes of a file: PNG (with the settings as text fields), JPEG or WebP. Errors: InputError for another format."""
        suffix = f".{format.lower()}"
        if suffix not in FORMATS:
            raise InputError(f"a picture cannot be encoded as '{format}'", remedy="choose from PNG, JPEG, WEBP")
        format = FORMATS[suffix]
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("Software", "genin")
        for name, value in self.settings.items():
            info.add_itxt(name, str(value))
        stream = io.BytesIO()
        options: dict[str, Any] = {"pnginfo": info} if format == "PNG" else {"quality": 95}
        self.to_pil().save(stream, format=format, **options)
        return stream.getvalue()

    def to_pil(self) -> Image.Image:
        """As a Pillow image."""
        from PIL import Image

        return Image.fromarray(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.array, dtype=dtype) if copy else np.asarray(self.array, dtype=dtype)

    def _repr_png_(self) -> bytes:
        return self.encoded()

    def __repr__(self) -> str:
        height, width = self.array.shape[:2]
        return f"<Picture {width}x{height} of {self.prompt!r}, seed {self.seed}>"
