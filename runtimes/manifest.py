"""The manifest of a bundle, format 1, as frozen dataclasses: what `manifest.json` says, not what is on disk.

Reading is strict: a value of the wrong type, a number that is not finite, a path that leaves the bundle, a timestep
outside the schedule: each is a `BundleError` that names the key. Keys that are not declared here are ignored, so that a
later genin may add some; a change that readers must know about raises `FORMAT`. The same classes write manifests
(`Manifest.to_json`), and their own checks run on construction, so a bad manifest cannot be written either.

Not here: opening bundles and checking files (`genin.runtimes.bundle`), what the sampler does
(`genin.runtimes.samplers`).
"""

from __future__ import annotations

import itertools
import json
import math
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar

from genin.runtimes.errors import BundleError
from genin.runtimes.text import decode_text, parse_json
from genin.runtimes.vocabulary import ALL_COMPONENTS, COMPONENTS, TEXT_TO_IMAGE

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
# What parity reports when a graph's output is the reference, bit for bit (JSON has no infinity).
EXACT_PSNR_DB = 200.0
MAX_ROWS = 1024  # of a fixed batch
MAX_UNROLLED = 8  # steps of a single graph, whose nodes grow with them

T = TypeVar("T")
SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[a-z][a-z0-9]{1,15}")
WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class FileEntry:
    """One file: its path in the bundle (relative, forward slashes), its hash and size."""

    path: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        check_path(self.path)
        _require(SHA256.fullmatch(self.sha256), f"sha256 of '{self.path}' is not 64 hexadecimal digits")
        _within(self.size_bytes, 0, 1 << 40, "size_bytes")


@dataclass(frozen=True)
class GoldenEntry(FileEntry):
    """Golden inputs of one component and PyTorch's fp32 outputs, as a plain npz."""

    component: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.component in ALL_COMPONENTS, f"unknown component {self.component[:40]!r}")


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output; a dimension is a number, or a name if it is free (`"batch"`)."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __post_init__(self) -> None:
        for axis, size in enumerate(self.shape):
            if isinstance(size, int):
                _within(size, 1, MAX_ROWS if axis == 0 else 1 << 24, f"a size of {self.name[:40]!r}")


@dataclass(frozen=True)
class Parity:
    """Measured agreement of one graph with PyTorch fp32 on the golden inputs; the worst output tensor counts.

    `psnr_db` has the reference's own max − min as its peak, and is `EXACT_PSNR_DB` where the outputs are equal.
    """

    psnr_db: float
    max_abs: float
    cosine: float
    floor_db: float
    checked_with: str


@dataclass(frozen=True)
class PictureParity:
    """Pictures of one format and precision, end to end, against PyTorch's of the same prompts and seeds: the median picture's PSNR
    with peak 255 and the worst's (a seed between two pictures tips to the other), and their mean LPIPS where its weights were
    available."""

    format: str
    precision: str
    psnr_db: float
    worst_psnr_db: float
    lpips_squeeze: float | None
    pictures: int


@dataclass(frozen=True, kw_only=True)
class GraphEntry:
    """One exported network. `path` is one of `files`, or the folder that holds them (`.mlpackage`); `operations` are kinds, in the
    format's own words => how often."""

    component: str
    format: str
    precision: str
    path: str
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    converter: str
    stored: str
    compute: str
    opset: int | None = None
    operations: dict[str, int] | None = None
    parity: Parity | None = None

    def __post_init__(self) -> None:
        check_path(self.path)
        _require(self.component in self.known_components(), f"unknown component {self.component[:40]!r}")
        for kind in ("format", "precision"):
            name = getattr(self, kind)
            _require(NAME.fullmatch(name), f"{name[:40]!r} is not the name of a {kind}")
        inside = all(file.path == self.path or file.path.startswith(self.path + "/") for file in self.files)
        _require(
            self.files and (inside or any(file.path == self.path for file in self.files)),
            f"graph '{self.path}' is not among its own files",
        )

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def name(self) -> str:
        """What the graph is called where its format and precision are known."""
        return self.component

    @staticmethod
    def known_components() -> tuple[str, ...]:
        return ALL_COMPONENTS


@dataclass(frozen=True, kw_only=True)
class SingleGraphEntry(GraphEntry):
    """The whole way from token ids and noise to pictures as one graph, for one number of steps and one guidance scale. `golden` has
    inputs and PyTorch's pictures; `parity` is the median picture's; LPIPS is None where its weights were not available."""

    steps: int
    guidance_scale: float
    golden: FileEntry
    lpips_squeeze: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self.steps, 1, MAX_UNROLLED, "steps of a single graph")
        _require(self.format != "coreml", "Core ML has no single graphs")

    @property
    def name(self) -> str:
        return f"{TEXT_TO_IMAGE}_{self.steps}"

    @staticmethod
    def known_components() -> tuple[str, ...]:
        return (TEXT_TO_IMAGE,)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Where the model comes from. `provenance` and `recipe` are free JSON objects."""

    kind: str
    licence: str
    title: str
    parent: str | None = None
    parameters: int | None = None
    macs: int | None = None
    provenance: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None

    def counts_of(self, component: str) -> dict[str, int]:
        """`parameters` and `macs` that the export says of a network; whatever has another form in the free object is left out."""
        parts = (self.provenance or {}).get("components")
        part = parts.get(component) if isinstance(parts, dict) else None
        return {key: n for key, n in part.items() if type(n) is int and n >= 0} if isinstance(part, dict) else {}


@dataclass(frozen=True)
class ImageSize:
    """Pixels. Graphs that draw other sizes, too, draw multiples of `multiple`."""

    height: int
    width: int
    multiple: int | None = None

    def __post_init__(self) -> None:
        if self.multiple is not None:
            _within(self.multiple, 1, 8192, "multiple of the image size")
        _within(self.height, 8, 8192, "image height")
        _within(self.width, 8, 8192, "image width")


@dataclass(frozen=True)
class Latents:
    """Shape of the latents, and the factor that the decoder's input is divided by and the encoder's output multiplied by."""

    channels: int
    height: int
    width: int
    scaling_factor: float

    def __post_init__(self) -> None:
        _within(self.channels, 1, 64, "latent channels")
        _within(self.height, 1, 1024, "latent height")
        _within(self.width, 1, 1024, "latent width")
        _require(self.scaling_factor > 0, "scaling_factor must be positive")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class TextConstants:
    """The text encoder's input (`max_length` tokens, padded with `pad_token_id`) and the width of its output."""

    max_length: int
    hidden_size: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int

    def __post_init__(self) -> None:
        _within(self.max_length, 3, 4096, "max_length")
        _within(self.hidden_size, 1, 1 << 16, "hidden_size")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            _within(getattr(self, name), 0, (1 << 31) - 1, name)


@dataclass(frozen=True, kw_only=True)
class SamplerConstants:
    """How pictures are drawn. `scheduler` is a diffusers `scheduler_config`; `few_step_timesteps` maps a number of
    steps (as text) to its timesteps; guidance is "baked" into the weights, or "free" (classifier-free)."""

    name: Literal["ddim"]
    prediction_type: Literal["v_prediction", "epsilon", "sample"]
    scheduler: dict[str, Any]
    default_steps: int
    guidance: Literal["baked", "free"]
    guidance_scale: float
    few_step_timesteps: dict[str, tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        training_steps = self.scheduler.get("num_train_timesteps", 1000)
        _require(type(training_steps) is int, "scheduler.num_train_timesteps is not an integer")
        _within(training_steps, 1, 100_000, "scheduler.num_train_timesteps")
        _within(self.default_steps, 1, training_steps, "default_steps")
        said = self.scheduler.get("prediction_type", "epsilon")
        _require(
            said == self.prediction_type,
            f"prediction_type is {self.prediction_type}, the scheduler says {str(said)[:40]!r}",
        )
        for steps, timesteps in (self.few_step_timesteps or {}).items():
            _require(steps == str(len(timesteps)), f"few_step_timesteps[{steps[:40]!r}] has {len(timesteps)} timesteps")
            falling = all(a > b for a, b in itertools.pairwise(timesteps))
            _require(timesteps and falling, f"few_step_timesteps[{steps[:40]!r}] is not decreasing")
            _within(timesteps[0], 0, training_steps - 1, "timestep")
            _within(timesteps[-1], 0, training_steps - 1, "timestep")

    @property
    def default_guidance_scale(self) -> float:
        """1.0 where guidance is baked into the weights."""
        return 1.0 if self.guidance == "baked" else self.guidance_scale


@dataclass(frozen=True)
class ModelConstants:
    """All that sampling needs to know of a model, wherever it is read from."""

    image: ImageSize
    latents: Latents
    text: TextConstants
    sampler: SamplerConstants


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of `manifest.json`."""

    name: str
    genin_version: str
    model: ModelInfo
    image: ImageSize
    latents: Latents
    text: TextConstants
    sampler: SamplerConstants
    graphs: tuple[GraphEntry, ...]
    single_graphs: tuple[SingleGraphEntry, ...] = ()
    golden: tuple[GoldenEntry, ...] = ()
    pictures: tuple[PictureParity, ...] = ()
    files: tuple[FileEntry, ...] = ()
    genin_bundle: int = FORMAT

    def __post_init__(self) -> None:
        seen: dict[str, FileEntry] = {}
        for entry in self._entries():
            other = seen.setdefault(entry.path.casefold(), entry)
            same = (other.path, other.sha256, other.size_bytes) == (entry.path, entry.sha256, entry.size_bytes)
            _require(same, f"'{entry.path}' is listed twice with different content or spelling")
        pixels, rest = divmod(self.image.height, self.latents.height)
        whole = pixels and rest == 0 and self.image.width == self.latents.width * pixels
        _require(whole, "pictures are no whole multiple of the latents")
        if (multiple := self.image.multiple) is not None:
            _require(multiple % pixels == 0, f"pictures of any multiple of {multiple} do not fit these latents")
        _require(MANIFEST not in seen, f"{MANIFEST} lists itself")
        names = [(graph.format, graph.precision, graph.component) for graph in self.graphs]
        _require(len(set(names)) == len(names), "two graphs have the same format, precision and component")
        single = [(graph.format, graph.precision, graph.steps) for graph in self.single_graphs]
        _require(len(set(single)) == len(single), "two single graphs have the same format, precision and steps")

    def _entries(self) -> Iterator[FileEntry]:
        for graph in (*self.graphs, *self.single_graphs):
            yield from graph.files
        for single in self.single_graphs:
            yield single.golden
        yield from self.golden
        yield from self.files

    @property
    def constants(self) -> ModelConstants:
        return ModelConstants(self.image, self.latents, self.text, self.sampler)

    def all_files(self) -> dict[str, FileEntry]:
        """Every file but the manifest: path => entry."""
        return {entry.path: entry for entry in self._entries()}

    def precisions(self, format: str) -> tuple[str, ...]:
        """The precisions in which this format has all that drawing from text needs, in the order of the manifest."""
        found: dict[str, set[str]] = {}
        for graph in self.graphs:
            if graph.format == format:
                found.setdefault(graph.precision, set()).add(graph.component)
        return tuple(name for name, components in found.items() if components >= set(COMPONENTS))

    def components(self, format: str, precision: str) -> dict[str, GraphEntry]:
        """Component => graph, of one format and precision; empty if there are none."""
        return {g.component: g for g in self.graphs if (g.format, g.precision) == (format, precision)}

    def steps_of_single_graphs(self, format: str, precision: str) -> dict[int, SingleGraphEntry]:
        """Number of steps => the single graph for it, of one format and precision."""
        return {g.steps: g for g in self.single_graphs if (g.format, g.precision) == (format, precision)}

    def to_json(self) -> str:
        """The text of `manifest.json`. Errors: ValueError for a number that is not finite."""
        order = {"genin_bundle": self.genin_bundle}
        return json.dumps(order | asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Errors: BundleError naming the key that is missing or wrong."""
        try:
            text = text if isinstance(text, str) else decode_text(text)
            data = parse_json(text)
        except ValueError as error:
            raise BundleError(
                f"{MANIFEST} is not valid JSON ({error})", remedy="export or download it again"
            ) from error
        version = data.get("genin_bundle") if isinstance(data, dict) else None
        if type(version) is not int:
            raise BundleError(f"{MANIFEST} is not the manifest of a genin bundle (no 'genin_bundle')")
        if version != FORMAT:
            raise BundleError(f"this bundle has format {version}, this genin reads {FORMAT}", remedy="update genin")
        return decode(cls, data, MANIFEST)


def check_path(path: str) -> str:
    """`path`, if it is relative, stays inside and means the same on every system. Errors: BundleError."""
    parts = path.split("/")
    plain = all(
        part not in ("", ".", "..")
        and len(part) <= 200
        and part == part.rstrip(". ")
        and not any(ord(sign) < 32 or 0xD800 <= ord(sign) < 0xE000 or sign in '\\:*?"<>|\x7f' for sign in part)
        and not WINDOWS_DEVICE.fullmatch(part)
        for part in parts
    )
    _require(
        plain and len(path) <= 1000, f"path {path[:200]!r} is refused: not a plain relative path inside the bundle"
    )
    return path


def decode(kind: type[T], value: Any, where: str) -> T:
    """JSON => an instance of the dataclass `kind`, strictly by its annotations. Errors: BundleError naming the key."""
    if not isinstance(value, dict):
        raise BundleError(f"{where}: not an object")
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in value:
            arguments[field.name] = _decode_value(hints[field.name], value[field.name], f"{where}: {field.name}")
        elif field.default is MISSING:
            raise BundleError(f"{where}: '{field.name}' is missing")
    try:
        return kind(**arguments)
    except BundleError as error:
        raise BundleError(f"{where}: {error.what}") from error


def _decode_value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is Literal:
        _require(value in arguments, f"{where}: {str(value)[:40]!r} is not one of {', '.join(arguments)}")
        return value
    if origin is tuple:
        _require(isinstance(value, list), f"{where}: not a list")
        return tuple(_decode_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _require(isinstance(value, dict), f"{where}: not an object")
        return {key: _decode_value(arguments[1], item, f"{where}.{key[:40]}") for key, item in value.items()}
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value, where)
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 60 else math.nan
    _require(type(value) is hint, f"{where}: {str(value)[:40]!r} is not of type {hint.__name__}")
    _require(hint is not float or math.isfinite(value), f"{where}: not a finite number")
    return value


def _decode_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    rest = [choice for choice in choices if choice is not type(None)]
    exact = [choice for choice in rest if type(value) is choice]
    return _decode_value((exact or rest)[0], value, where)


def _require(condition: object, what: str) -> None:
    if not condition:
        raise BundleError(what)


def _within(value: int, low: int, high: int, what: str) -> None:
    _require(low <= value <= high, f"{what} {value} is outside {low} … {high}")
