"""Drawing from a picture instead of from noise alone: where it starts, and what a mask keeps of it.

Image to image (SDEdit, Meng et al. 2022, arXiv:2108.01073): the picture's latents are noised to a timestep by the drawing's own
noise, and the usual steps go on from there. `strength` says how many of them: as in diffusers, min(⌊steps · strength⌋, steps), from
the end of the list. A few-step student knows its own timesteps alone, so only their strengths exist.

Inpainting (RePaint without resampling, Lugmayr et al. 2022, arXiv:2201.09865): after every step, latents outside the mask become
the picture's own, noised to where the step has led by the same noise; at the end, pixels outside the mask become its own.

Not here: encoding and steps (`pipeline`), reading files (`picture_files`).
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.arguments import local_path, number
from genin.runtimes.errors import InputError
from genin.runtimes.samplers import END, Array, Schedule
from genin.runtimes.wording import counted, one_line

if TYPE_CHECKING:
    from PIL import Image

    from genin.runtimes.pictures import Picture

    ImageLike = str | Path | Picture | NDArray[np.uint8] | Image.Image

DEFAULT_STRENGTH = 0.8  # diffusers'; with a mask it is 1
SAME_STRENGTH = 5e-4  # 0.333 is a third
MAX_COLOUR = 8  # largest difference between the channels of a grey mask: JPEG leaves some


@dataclass(frozen=True, eq=False)
class Start:
    """What a drawing starts from. `image` is (H, W, 3) uint8 of the size that is drawn; `mask` is (H, W) uint8, where 255 is drawn
    anew and 0 is kept, or None."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None

    def composite(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, H, W, 3) uint8 drawn => the same with the image's own pixels outside the mask, to the bit."""
        if self.mask is None:
            return pictures
        anew = self.mask.astype(np.uint16)[:, :, None]
        return ((pictures * anew + self.image * (255 - anew) + 127) // 255).astype(np.uint8)

    def latent_mask(self, pixels_a_latent: int) -> Array:
        """(1, 1, h, w) in [0, 1]: a latent is drawn anew as far as any of its pixels is."""
        assert self.mask is not None
        height, width = (side // pixels_a_latent for side in self.mask.shape)
        blocks = self.mask.reshape(height, pixels_a_latent, width, pixels_a_latent)
        most: Array = blocks.max(axis=(1, 3)).astype(np.float32) / np.float32(255)
        return most[None, None]


@dataclass(frozen=True, eq=False)
class KnownLatents:
    """The image's latents (1, C, h, w), and the drawing's noise (N, C, h, w), by which they are noised; `mask` as `latent_mask`."""

    latents: Array
    noise: Array
    schedule: Schedule
    mask: Array | None

    def at(self, timestep: int) -> Array:
        """(N, C, h, w): √ᾱ_t·latents + √(1 − ᾱ_t)·noise, and the latents themselves at the end."""
        if timestep == END:
            return np.broadcast_to(self.latents, self.noise.shape)
        alpha, sigma = self.schedule.alpha_sigma(timestep)
        return np.float32(alpha) * self.latents + np.float32(sigma) * self.noise

    def keep(self, x: Array, timestep: int) -> Array:
        """`x`, at `timestep`, with these latents outside the mask."""
        return x if self.mask is None else self.mask * x + (np.float32(1) - self.mask) * self.at(timestep)


def encoder_input(pictures: NDArray[np.uint8]) -> Array:
    """(N, H, W, 3) uint8 => (N, 3, H, W) float32 in [−1, 1]."""
    scaled = pictures.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


# --- strengths -------------------------------------------------------------------------------------------------------


def strengths(steps: int) -> tuple[float, ...]:
    """The least strengths at which 1, 2, … `steps` of so many steps are taken."""
    shares = ((count, count / steps) for count in range(1, steps + 1))
    return tuple(share if int(steps * share) == count else math.nextafter(share, 2) for count, share in shares)


def check_strength(strength: float | None) -> float | None:
    """Errors: InputError outside (0, 1]."""
    strength = number(strength, "strength")
    if strength is not None and not 0 < strength <= 1:
        raise InputError(f"strength must be above 0 and at most 1; got {strength:g}")
    return strength


def settled_strength(strength: float | None, steps: int, *, few: bool, masked: bool) -> tuple[float, int]:
    """The strength (None is the default) and how many of `steps` are taken with it. `few`: only those of the timesteps exist.

    Errors: InputError for a strength outside (0, 1], or one that does not exist, with the nearest.
    """
    known, strength = strengths(steps), check_strength(strength)
    if strength is None:
        strength = 1.0 if masked or steps == 1 else DEFAULT_STRENGTH
        if few:
            strength = known[int(steps * strength) - 1]
    if few:
        nearest = min(range(steps), key=lambda index: abs(known[index] - strength))
        if abs(known[nearest] - strength) > SAME_STRENGTH:
            listed = ", ".join(f"{value:.3g}" for value in known)
            what = f"strength {strength:g} does not exist for a student in {counted(steps, 'step')}"
            raise InputError(what, remedy=f"the nearest is {known[nearest]:.3g} (of {listed})")
        return known[nearest], nearest + 1
    if int(steps * strength) < 1:
        what = f"strength {strength:g} leaves none of {counted(steps, 'step')}"
        raise InputError(what, remedy=f"the nearest is {known[0]:.3g}")
    return strength, min(int(steps * strength), steps)


# --- images and masks ------------------------------------------------------------------------------------------------


def check_start_options(options: Mapping[str, Any]) -> None:
    """Errors: InputError for a mask or a strength without an image."""
    if options.get("image") is None:
        for name in ("mask", "strength"):
            if options.get(name) is not None:
                raise InputError(f"a {name} needs an image", remedy="give the image, too, or leave it out")


def read_start(image: ImageLike, mask: ImageLike | None, size: tuple[int, int]) -> Start:
    """Image and mask, brought to `size` (height, width): scaled until they cover it, and cut around the centre.

    Errors: InputError for a file that cannot be read, an array of another shape, a mask of colour or of another size than the
    image.
    """
    from PIL import Image, ImageOps

    from genin.runtimes.picture_files import fit

    picture, width_height = open_image(image, "image"), (size[1], size[0])
    if mask is None:
        return Start(np.asarray(fit(picture, width_height)), None)
    grey = open_mask(mask)
    if grey.size != picture.size:
        sizes = [f"{each.width}x{each.height}" for each in (grey, picture)]
        raise InputError(f"the mask is {sizes[0]}, the image {sizes[1]}", remedy="give a mask of the image's size")
    if grey.size != width_height:  # bilinear: Lanczos would ring into what is kept
        grey = ImageOps.fit(grey, width_height, Image.Resampling.BILINEAR)
    return Start(np.asarray(fit(picture, width_height)), np.asarray(grey))


def open_image(image: ImageLike, what: str, background: str = "white") -> Image.Image:
    """A path, `Picture`, Pillow image or (H, W, 3) uint8 array as RGB. Errors: InputError."""
    from PIL import Image

    from genin.runtimes.picture_files import PictureError, open_rgb, reasons, to_rgb

    try:
        if isinstance(image, str | os.PathLike):
            return open_rgb(local_path(image, f"the {what}"), background).image
        if isinstance(image, Image.Image):
            with reasons(Path(what), io.BytesIO()):
                return to_rgb(image, Path(what), background)
    except PictureError as error:
        raise InputError(f"the {what} cannot be used: {error.what}", where=error.where) from error
    array = as_array(image)
    if array is None or array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(
            f"the {what} must be a path, a picture or an array (H, W, 3) of uint8; got {_described(image)}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def open_mask(mask: ImageLike) -> Image.Image:
    """A mask as greyscale; transparent parts are black. Arrays may be (H, W) of uint8 or bool. Errors: InputError for colours."""
    from PIL import Image

    array = None if isinstance(mask, str | os.PathLike | Image.Image) else as_array(mask)
    if array is not None and array.ndim == 2 and array.dtype in (np.uint8, np.bool_) and array.size:
        values = array if array.dtype == np.uint8 else array.astype(np.uint8) * np.uint8(255)
        return Image.fromarray(np.ascontiguousarray(values))
    channels = np.asarray(open_image(mask, "mask", "black"))
    if int((channels.max(axis=2) - channels.min(axis=2)).max()) > MAX_COLOUR:
        where = mask if isinstance(mask, str | os.PathLike) else None
        remedy = "give one in grey: white is drawn anew, black is kept"
        raise InputError("the mask has colours", where=None if where is None else Path(where), remedy=remedy)
    return Image.fromarray(np.ascontiguousarray(channels[:, :, 1]))


def as_array(image: object) -> NDArray[Any] | None:
    """What is an array, or says that it can be one; None for anything else. Errors: InputError for one that then cannot."""
    try:
        return np.asarray(image) if hasattr(image, "__array__") else None
    except Exception as error:  # such as TypeError of a tensor that is not on the CPU
        what = f"this {type(image).__name__} cannot be an array ({one_line(error)})"
        raise InputError(what, remedy="copy it to the processor's memory first") from error


def _described(image: object) -> str:
    array = as_array(image)
    return type(image).__name__ if array is None else f"an array {array.shape} of {array.dtype}"
