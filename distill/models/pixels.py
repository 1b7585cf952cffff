"""Pictures as arrays of bytes and as tensors, and how many are processed at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def batch_size_for(limit: int, side: int, base_side: int) -> int:
    """How many squares of `side` are processed together: as many pixels as `limit` squares of `base_side`, and at least one."""
    return max(1, limit * base_side**2 // side**2)


def to_tensor(pictures: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """NHWC uint8 => NCHW float in [−1, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """NCHW float in [−1, 1] => NHWC uint8, rounded to nearest."""
    scaled = np.clip(images.transpose(0, 2, 3, 1) * 127.5 + 127.5, 0, 255)
    pictures: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return pictures
