"""What a model folder (diffusers layout, perhaps with `genin.json`) says about itself in its small files, read without torch.

This is the one reader of model folders: the runtimes, the benchmarks (`genin.benchmarks.model_facts`) and training
(`genin.distill.models.folder`) take from here what they need. The constants are those that a bundle's manifest holds, so that the
pipeline sees one kind of model. A folder without `genin.json` is a third-party teacher: guidance is free, at 7.5, in 50 steps.

Not here: weights (`genin.runtimes.pytorch_engine`), writing folders (`genin.distill.models.folder`).
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from genin.runtimes.added_tokens import AddedToken, read_added_tokens
from genin.runtimes.errors import BundleError, InputError
from genin.runtimes.families import SUPPORTED, refuse_other_families, refuse_other_networks
from genin.runtimes.manifest import ImageSize, Latents, ModelConstants, SamplerConstants, TextConstants, decode
from genin.runtimes.text import decode_text, is_marked, parse_json
from genin.runtimes.tokenizer_files import FILES as TOKENIZER_FILES
from genin.runtimes.tokenizer_files import is_combined, tokenizer_files

T = TypeVar("T")
GENIN_MODEL = 1
PARTS = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
# Component => the folder that holds its weights.
COMPONENT_FOLDERS = {"text_encoder": "text_encoder", "unet": "unet", "vae_decoder": "vae"}
# What a folder must contain; weights may be in other files (`weight_files`).
MODEL_FILES = (
    *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    *("text_encoder/config.json", "text_encoder/model.safetensors"),
    *("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    *("tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"),
)
# (variant, suffix), in the order in which weights are looked for.
VARIANTS = ("", ".fp16", ".bf16")
WEIGHT_KINDS = tuple((variant, suffix) for suffix in (".safetensors", ".bin") for variant in VARIANTS)
LFS_POINTER = b"version https://git-lfs"
DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE = 50, 7.5
AGAIN = "re-create or re-download it"


def is_model_folder(path: Path) -> bool:
    return (path / "model_index.json").is_file()


def read_json(path: Path, what: str, remedy: str = AGAIN, *, infinite: bool = False) -> dict[str, Any]:
    """A JSON object, perhaps with `infinite` numbers. Errors: InputError: `what` for a missing file, else what is wrong in it."""
    try:
        data = parse_json(decode_text(path.read_bytes()), infinite=infinite)
    except OSError as error:
        raise InputError(what, where=path, remedy=remedy) from error
    except ValueError as error:
        raise InputError(f"not valid JSON ({error})", where=path, remedy=remedy) from error
    if not isinstance(data, dict):
        raise InputError("not a JSON object", where=path, remedy=remedy)
    return data


@contextmanager
def plain_json(folder: Path, made: Mapping[str, bytes] = MappingProxyType({})) -> Iterator[Path]:
    """The folder, or where a JSON or text file in it begins with a byte-order mark (editors on Windows write one) a copy without,
    for libraries that refuse it: other files are linked. The copy is gone after the block. `made`: files, by name, that are in the
    copy only."""
    marked = [path for path in folder.iterdir() if path.suffix in (".json", ".txt") and path.is_file()]
    marked = [path for path in marked if is_marked(path.read_bytes())]
    if not marked and not made:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="genin-") as name:
        for added, content in made.items():
            (Path(name) / added).write_bytes(content)
        for path in folder.iterdir():
            target = Path(name) / path.name
            if path.name in made:
                continue
            if path in marked:
                target.write_text(decode_text(path.read_bytes()), encoding="utf-8")
            elif path.is_file():
                _link(path, target)
        yield Path(name)


def _link(path: Path, target: Path) -> None:
    try:
        target.symlink_to(path.resolve())
    except OSError:  # Windows without the right to make links
        shutil.copyfile(path, target)


def read_model_index(path: Path) -> dict[str, Any]:
    """`model_index.json`, its parts present and of kinds that genin runs. Errors: InputError."""
    if (path / "manifest.json").is_file() and not (path / "model_index.json").is_file():
        raise InputError(
            "this is already a bundle", where=path, remedy="give the model folder that it was exported from"
        )
    index = read_json(
        path / "model_index.json", "not a model folder (no model_index.json)", "give a diffusers model folder"
    )
    refuse_other_families(path, index)
    for part in PARTS:
        entry = index.get(part)
        if not isinstance(entry, list) or len(entry) != 2 or not (path / part).is_dir():
            raise InputError(f"the model folder has no '{part}'", where=path, remedy=AGAIN)
    for part, known in (
        ("vae", AUTOENCODERS),
        ("unet", ("UNet2DConditionModel",)),
        ("text_encoder", ("CLIPTextModel",)),
    ):
        if index[part][1] not in known:
            raise InputError(f"the model folder's {part} is a '{index[part][1]}'", where=path, remedy=SUPPORTED)
    own = (path / "genin.json").is_file()
    refuse_other_networks(
        path, index, read_config(path, "unet"), read_config(path, "vae"), read_scheduler(path), own=own
    )
    return index


def read_config(path: Path, part: str) -> dict[str, Any]:
    """`config.json` of a network. Errors: InputError."""
    return read_json(path / part / "config.json", "the model folder lacks a file")


def read_scheduler(path: Path) -> dict[str, Any]:
    """`scheduler_config.json`, without the entries that no JSON can hold: others' have `lambda_min_clipped: -Infinity` on purpose,
    which no sampler here reads. Errors: InputError."""
    file = path / "scheduler" / "scheduler_config.json"
    config = read_json(file, "the model folder has no scheduler", infinite=True)
    return {key: value for key, value in config.items() if not isinstance(value, float) or math.isfinite(value)}


def read_info(path: Path) -> dict[str, Any]:
    """`genin.json`, or an empty dictionary for a third-party folder. Errors: InputError."""
    file = path / "genin.json"
    info = read_json(file, "unreadable genin.json") if file.is_file() else {}
    if info and info.get("genin_model") != GENIN_MODEL:
        raise InputError(
            f"genin.json has version {info.get('genin_model')}, this genin reads {GENIN_MODEL}",
            where=file,
            remedy="update genin",
        )
    return info


def read_constants(path: Path) -> ModelConstants:
    """All that sampling needs to know of a model folder. Errors: InputError naming the file."""
    index, unet, vae = read_model_index(path), read_config(path, "unet"), read_config(path, "vae")
    height, width = latent_size(unet, path / "unet" / "config.json")
    scale = 2 ** (_levels(vae, path / "vae") - 1)
    multiple = scale * 2 ** (_levels(unet, path / "unet") - 1)
    size = {"height": height * scale, "width": width * scale, "multiple": multiple}
    image = _decode(ImageSize, size, path, "unet")
    latents = {
        "channels": unet.get("in_channels", 4),
        "height": height,
        "width": width,
        "scaling_factor": vae.get("scaling_factor", 1.0 if index["vae"][1] == "AutoencoderTiny" else 0.18215),
    }
    return ModelConstants(image, _decode(Latents, latents, path, "unet, vae"), _read_text(path), _read_sampler(path))


def _levels(config: Mapping[str, Any], part: Path) -> int:
    """Of a network; Stable Diffusion's have 4. Errors: InputError."""
    channels = config.get("block_out_channels") or [0] * 4
    if not isinstance(channels, list) or len(channels) > 16:
        raise InputError("'block_out_channels' is not a list of a few widths", where=part / "config.json", remedy=AGAIN)
    return len(channels)


def _decode(kind: type[T], constants: dict[str, Any], path: Path, parts: str) -> T:
    """Constants of a folder's `parts`, checked as a manifest's are. Errors: InputError naming the key."""
    try:
        return decode(kind, constants, parts)
    except BundleError as error:
        raise InputError(error.what, where=path, remedy=AGAIN) from error


def _read_text(path: Path) -> TextConstants:
    config = read_config(path, "text_encoder")
    folder = path / "tokenizer"
    vocabulary = read_vocabulary(folder)
    settings: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            settings |= read_json(folder / name, "unreadable")
    begin = _token(settings.get("bos_token"), "<|startoftext|>")
    end = _token(settings.get("eos_token"), "<|endoftext|>")
    check_token_rows(path)
    longest, limit = config.get("max_position_embeddings", 77), settings.get("model_max_length")
    vocabulary |= {token.name: token.number for token in added_tokens(path)}
    constants = {
        "max_length": min(longest, limit) if type(longest) is type(limit) is int else longest,
        "hidden_size": config.get("hidden_size", 512),
        "pad_token_id": vocabulary.get(_token(settings.get("pad_token"), end)),
        "bos_token_id": vocabulary.get(begin),
        "eos_token_id": vocabulary.get(end),
    }
    return _decode(TextConstants, constants, path, "text_encoder, tokenizer")


def read_vocabulary(folder: Path) -> dict[str, Any]:
    """Piece => id, of a tokenizer's folder. Errors: InputError naming the file."""
    if not is_combined(folder):
        return read_json(folder / "vocab.json", "the model folder's tokenizer lacks a file (CLIP's vocab.json)")
    found: dict[str, Any] = json.loads(tokenizer_files(folder)["vocab.json"])
    return found


def added_tokens(path: Path) -> list[AddedToken]:
    """The tokens that a model folder's tokenizer has beside `vocab.json`. Errors: InputError naming the folder."""
    folder = path / "tokenizer"
    try:
        return read_added_tokens(lambda name: (folder / name).read_bytes() if (folder / name).is_file() else None)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(error.filename)) from error
    except InputError as error:
        raise InputError(error.what, where=folder, remedy=AGAIN) from error


def check_token_rows(path: Path) -> None:
    """Whether the text encoder has a row for every token that was added to the tokenizer.

    Errors: InputError naming the first that has none: it was added, but the encoder was not saved with it.
    """
    if not (tokens := added_tokens(path)):
        return
    rows = read_config(path, "text_encoder").get("vocab_size")
    for token in tokens:
        if type(rows) is int and token.number >= rows:
            what = f"the text encoder has {rows} rows, none for the added token '{token.name}' ({token.number})"
            remedy = "save the text encoder that was trained with it (resize_token_embeddings), or remove the token"
            raise InputError(what, where=path / "tokenizer", remedy=remedy)


def _read_sampler(path: Path) -> SamplerConstants:
    scheduler, info = read_scheduler(path), read_info(path)
    constants = {
        "name": "ddim",
        "prediction_type": scheduler.get("prediction_type", "epsilon"),
        "scheduler": scheduler,
        "default_steps": info.get("default_steps", DEFAULT_STEPS),
        "guidance": info.get("guidance", "free"),
        "guidance_scale": info.get("guidance_scale", DEFAULT_GUIDANCE_SCALE),
        "few_step_timesteps": info.get("few_step_timesteps"),
    }
    return _decode(SamplerConstants, constants, path, "scheduler, genin.json")


def latent_size(unet: Mapping[str, Any], where: str | Path = "unet/config.json") -> tuple[int, int]:
    """(height, width) of the latents by a UNet's config, whose `sample_size` is one number or a list of two.

    Errors: InputError naming `where` if it is neither: some folders leave it to the caller of a pipeline.
    """
    size = unet.get("sample_size")
    if size is None:
        remedy = "write the side of the latents there, 64 for Stable Diffusion's 512 px"
        raise InputError("sample_size is not stated", where=where, remedy=remedy)
    pair = size if isinstance(size, list | tuple) else [size, size]
    if len(pair) != 2 or not all(type(side) is int and 1 <= side <= 1024 for side in pair):
        raise InputError(
            f"sample_size {size!r} is not a size", where=where, remedy="write one number, or two in a list"
        )
    return pair[0], pair[1]


def square_latent_size(unet: Mapping[str, Any], where: str | Path = "unet/config.json") -> int:
    """The side of the latents. Errors: InputError if they are not square, or `sample_size` is no size."""
    height, width = latent_size(unet, where)
    if height != width:
        what = f"sample_size {[height, width]} is not square: only square models are trained and exported"
        raise InputError(what, where=where, remedy="write one number there")
    return height


def _token(entry: Any, default: str) -> str:
    """A special token is written as text, or as an object with its `content`."""
    content = entry.get("content") if isinstance(entry, dict) else entry
    return content if isinstance(content, str) else default


# --- files of weights ------------------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a network's weights: safetensors, else their fp16 or bf16 copy, else `.bin`; the shards that an index
    names.

    Errors: InputError for an index that cannot be read.
    """
    for variant, suffix in WEIGHT_KINDS:
        for stem in ("diffusion_pytorch_model", "model" if suffix == ".safetensors" else "pytorch_model"):
            index = folder / f"{stem}{suffix}.index{variant}.json"
            if index.is_file():
                shards = read_json(index, "unreadable list of weights").get("weight_map")
                names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
                return [folder / Path(name).name for name in names]
            if (folder / f"{stem}{variant}{suffix}").is_file():
                return [folder / f"{stem}{variant}{suffix}"]
    return []


def refuse_pointer(file: Path) -> None:
    """Errors: InputError for a file that stands for one in Git LFS: the repository was cloned without its large files."""
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(
                "this is a pointer of Git LFS, not the file", where=file, remedy="run `git lfs pull` in its folder"
            )


def weights_bytes(folder: Path) -> int | None:
    """Bytes of a network's weights on disk; None where there are none."""
    files = weight_files(folder)
    return sum(file.stat().st_size for file in files) if files else None


def missing_files(path: Path) -> list[str]:
    """Of `MODEL_FILES`, and of the weights that an index names, those that a model folder lacks. Errors: InputError."""
    missing = []
    for name in MODEL_FILES:
        part = path / Path(name).parent
        if Path(name).suffix == ".safetensors":
            files = weight_files(part)
            missing += [file.relative_to(path).as_posix() for file in files if not file.is_file()] if files else [name]
        elif not (path / name).is_file() and not (Path(name).name in TOKENIZER_FILES and is_combined(part)):
            missing.append(name)
    return missing
