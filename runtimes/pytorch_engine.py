"""A diffusers model folder on PyTorch; and reading its networks, which training uses, too.

`read_networks` reads what others wrote too: sharded or single safetensors, old `.bin` files (never unpickled beyond
tensors: `weights_only`). A file that is missing, truncated or lacks weights is an error that names it, never a network
with random weights.

Not here: bundles, the tokenizer and scheduler (`genin.runtimes.folder`), saving and training (`genin.distill`).
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genin.runtimes.cancellation import Interruption
from genin.runtimes.engine import DEFAULT_SETTINGS, Array, EngineSettings, graph_failed
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.folder import (
    AGAIN,
    VARIANTS,
    latent_size,
    plain_json,
    read_json,
    read_model_index,
    refuse_pointer,
    weight_files,
)
from genin.runtimes.vocabulary import VAE_ENCODER, check_device

HEADER_LIMIT_BYTES = 100 << 20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Networks:
    """The three networks of a model folder, frozen, in evaluation mode. The autoencoder encodes and decodes."""

    text_encoder: Any
    unet: Any
    vae: Any


class PyTorchEngine:
    """The three networks on one device; arrays enter and leave on the host.

    In fp32, matrix products and convolutions are in full fp32 on `cuda`, too (no TF32), so that pictures are those of the CPU to
    rounding. The UNet may be in half precision: it is nearly all of the work of many steps. The others stay in fp32, since an
    autoencoder's rounding is seen at once, and some overflow in fp16.
    """

    def __init__(self, networks: Networks) -> None:
        self._networks: Networks | None = networks
        weights = next(networks.unet.parameters())
        self._device, self._dtype = weights.device, weights.dtype
        self.provider = str(self._device)
        if self._device.type == "cuda":
            self.provider += f" ({torch.cuda.get_device_name(self._device)})"
        self._interruption = Interruption()

    @classmethod
    def open(
        cls, path: Path, *, settings: EngineSettings = DEFAULT_SETTINGS, device: str = "cpu", precision: str = "fp32"
    ) -> PyTorchEngine:
        """Threads are PyTorch's within an operator, which are the whole process's; None leaves them alone. `precision` is the
        UNet's: fp32, bf16 or fp16.

        Errors: InputError naming the file that is missing or damaged, or the device that this machine lacks.
        """
        place = find_device(device)
        if (threads := settings.own_threads) is not None:
            torch.set_num_threads(threads)
        networks = read_networks(path)
        try:
            for network in (networks.text_encoder, networks.unet, networks.vae):
                network.to(place)
            if precision != "fp32":  # channels last: a third of the time of bf16 convolutions on a CPU
                networks.unet.to(DTYPES[precision], memory_format=torch.channels_last)
        except torch.OutOfMemoryError as error:
            raise InputError(f"the model does not fit on {device}", where=path, remedy="use device cpu") from error
        engine = cls(networks)
        for network in (networks.text_encoder, networks.unet, networks.vae):
            for block in _blocks(network):
                block.register_forward_pre_hook(lambda *_: engine._interruption.check())
        return engine

    @contextmanager
    def _inference(self, component: str) -> Iterator[None]:
        """Errors: GeninError for whatever PyTorch raises, such as a lack of memory."""
        # cuDNN would round the inputs of convolutions to 10 bits (TF32), matrix products are exact by default.
        exact = (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if self._device.type == "cuda" else nullcontext()
        )
        self._interruption.check()
        try:
            with torch.inference_mode(), exact:
                yield
        except GeninError:
            raise
        except Exception as error:  # PyTorch raises RuntimeError, IndexError and others
            raise graph_failed(component, error) from error

    def _on_device(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _get(self) -> Networks:
        if self._networks is None:
            raise InputError("the pipeline is closed")
        return self._networks

    def encode(self, ids: NDArray[np.int64]) -> Array:
        with self._inference("text_encoder"):
            return _to_numpy(self._get().text_encoder(self._on_device(ids))[0])

    def predict(self, latents: Array, timestep: int, text: Array) -> Array:
        with self._inference("unet"):
            x, embeddings = (self._on_device(array).to(self._dtype) for array in (latents, text))
            steps = torch.full((len(x),), timestep, dtype=torch.int64, device=self._device)
            return _to_numpy(self._get().unet(x, steps, encoder_hidden_states=embeddings, return_dict=False)[0])

    def decode(self, latents: Array) -> Array:
        with self._inference("vae_decoder"):
            return _to_numpy(self._get().vae.decode(self._on_device(latents), return_dict=False)[0])

    def encode_picture(self, pictures: Array) -> Array:
        with self._inference(VAE_ENCODER):
            return _to_numpy(mean_latents(self._get().vae, self._on_device(pictures)))

    def interrupt(self) -> None:
        self._interruption.interrupt()

    def proceed(self) -> None:
        self._interruption.proceed()

    def close(self) -> None:
        self._networks = None


def _blocks(network: Any) -> Iterator[torch.nn.Module]:
    """What a network runs one after the other. A check before every layer would cost more than it is worth."""
    for module in network.modules():
        if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)):
            yield from module


def mean_latents(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures in [−1, 1], NCHW => raw latents. A variational encoder gives its mean: the same picture, the same latents."""
    encoded = vae.encode(pictures)
    latents: torch.Tensor = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
    return latents


def _to_numpy(tensor: torch.Tensor) -> Array:
    array: Array = tensor.float().contiguous().cpu().numpy()
    return array


def find_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1`, `mps`. Errors: InputError for another one, or one that this machine lacks."""
    kind, _, index = check_device(name).partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise InputError(f"device {name} is not available ({count} CUDA devices)", remedy="use device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps is not available", remedy="use device cpu")
    return torch.device(name)


def read_networks(path: Path, *, dtype: torch.dtype = torch.float32) -> Networks:
    """Read a model folder's UNet, autoencoder and text encoder in `dtype`.

    Errors: InputError naming the part or file that is missing, damaged, incomplete or unsupported.
    """
    # diffusers logs on import which of two distributions is optimum: nothing that a user of genin can act on.
    logging.getLogger("diffusers.utils.import_utils").addFilter(
        lambda record: "Multiple distr" not in record.getMessage()
    )
    import diffusers
    import transformers

    index = read_model_index(path)
    autoencoder = str(index["vae"][1])
    classes = {
        "unet": diffusers.UNet2DConditionModel,
        "vae": getattr(diffusers, autoencoder),
        "text_encoder": transformers.CLIPTextModel,
    }
    with _quiet():
        networks = {part: _read_network(path / part, kind, dtype) for part, kind in classes.items()}
    height, width = latent_size(networks["unet"].config, path / "unet" / "config.json")
    if (
        height == width
    ):  # a list of two is as valid; everything after this, and the folders that are saved, has one number
        networks["unet"].register_to_config(sample_size=height)
    return Networks(**networks)


def _read_network(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    check_weights(folder)
    variant = next((kind[1:] for kind in VARIANTS if kind and kind in weight_files(folder)[0].name), None)
    try:
        with plain_json(folder) as plain:
            network, found = kind.from_pretrained(
                plain, torch_dtype=dtype, variant=variant, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # whatever torch's reader, diffusers or transformers make of a damaged file
        files = ", ".join(file.name for file in weight_files(folder))
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read {files} ({reason})", where=folder, remedy=AGAIN) from error
    parameters = {name for name, _ in network.named_parameters()}
    if missing := sorted(parameters & set(found["missing_keys"])):
        files = ", ".join(file.name for file in weight_files(folder))
        raise InputError(f"{files} lacks {len(missing)} weights, e.g. '{missing[0]}'", where=folder, remedy=AGAIN)
    return network.requires_grad_(False).eval()


def check_weights(folder: Path) -> None:
    """Errors: InputError naming the weight file that is missing or cut short."""
    read_json(folder / "config.json", "the model folder lacks a file")
    files = weight_files(folder)
    if not files:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
        known = f"only diffusion_pytorch_model or model with these endings is read: {', '.join(others[:3])}"
        what, remedy = ("weights under another name", known) if others else ("no weights here", AGAIN)
        raise InputError(f"{what} (.safetensors or .bin)", where=folder, remedy=remedy)
    for file in files:
        if not file.is_file():
            raise InputError("a weights file is missing", where=file, remedy=AGAIN)
        refuse_pointer(file)
        if file.suffix == ".safetensors" and not _is_whole(file):
            raise InputError("a weights file is damaged or truncated", where=file, remedy=AGAIN)


def _is_whole(file: Path) -> bool:
    """Does a safetensors file hold all that its header announces? (8 bytes of length, JSON, then the tensors.)"""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, HEADER_LIMIT_BYTES):
            return False
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return False
    return all(type(end) is int for end in ends) and 8 + length + max(ends, default=0) == size


@contextmanager
def _quiet() -> Iterator[None]:
    """diffusers and transformers report on stderr what is checked and raised here."""
    import diffusers
    import transformers

    loggers = (diffusers.utils.logging, transformers.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity(logger.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
