"""Captions by a model, for the pictures that have none.

Any image-to-text model that transformers loads without remote code will do (BLIP by default); a local folder needs no
network. Captions that exist are kept. `metadata.jsonl` is replaced as a whole after every hundred pictures or so, so an
interrupted run goes on where it stopped; every other column and number in it stays as it was.

Not here: judging captions. A caption model's words are coarse for stylised pictures: read some before training on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from genin.benchmarks.picture_files import PictureError, read_picture
from genin.benchmarks.picture_sets import METADATA, open_picture_set
from genin.distill.data_prepare import with_trigger
from genin.distill.data_sources import Dropped, clean
from genin.distill.datasets import read_facts
from genin.runtimes.errors import InputError

DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # no pickles
SAVE_EVERY = 100


@dataclass(frozen=True)
class CaptionReport:
    """`captioned` pictures were given a caption; `existing` had one; `failed` have none still."""

    captioned: int
    existing: int
    failed: tuple[Dropped, ...]


class CaptionModel:
    """An image-to-text model of transformers, greedy, so that the same picture gets the same caption."""

    def __init__(self, name: str, *, max_new_tokens: int = 40) -> None:
        """Load a local folder or a hub model. Errors: InputError if its weights cannot be had or do not caption."""
        folder = _model_folder(name)
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        level = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = clean(error)[:160]
            remedy = "give an image-to-text model of transformers, BLIP for one"
            raise InputError(f"the caption model cannot be loaded ({reason})", where=name, remedy=remedy) from error
        finally:
            logging.set_verbosity(level)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(self.device).eval()
        self.max_new_tokens = max_new_tokens

    def captions(self, pictures: Sequence[Image.Image]) -> list[str]:
        """One caption a picture; empty where the model says nothing."""
        import torch

        inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.device)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1)
        return [clean(text) for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


def _model_folder(name: str) -> Path:
    """A local folder as it is; a hub name => its snapshot, fetched first so that no network is one quick error."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if name.count("/") != 1 or name[0] in "./~":
        raise InputError("no such caption model", where=name, remedy=f"give its folder, or a name: {DEFAULT_MODEL}")
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(MODEL_FILES)))
    except RepositoryNotFoundError as error:
        raise InputError(
            "the hub has no such caption model", where=name, remedy=f"for example {DEFAULT_MODEL}"
        ) from error
    except (OSError, ValueError) as error:  # what the hub's client raises for the network and for wrong names
        remedy = "check the network, or give the folder of a downloaded BLIP model as --model"
        raise InputError("the caption model cannot be downloaded", where=f"hub:{name}", remedy=remedy) from error


def caption_dataset(
    folder: Path,
    load: Callable[[], Any],
    *,
    batch_size: int = 8,
    bar: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> CaptionReport:
    """Caption the pictures of `folder` that have none. `load` gives a CaptionModel, and is called only if needed.

    Errors: InputError (no pictures, wrong metadata, no model).
    """
    rows = _read_rows(folder)
    trigger = str(read_facts(folder).get("options", {}).get("trigger", ""))
    missing = [row for row in rows if not clean(row.get("text") or "")]
    existing = len(rows) - len(missing)
    if not missing:
        return CaptionReport(0, existing, ())
    model = load()
    advance = bar(len(missing))
    failed: list[Dropped] = []
    unsaved = 0
    for start in range(0, len(missing), batch_size):
        readable = []
        for row in missing[start : start + batch_size]:
            try:
                readable.append((row, read_picture(folder / row["file_name"])))
            except PictureError as error:
                failed.append(Dropped(row["file_name"], error.what))
        texts = model.captions([picture for _, picture in readable]) if readable else []
        for (row, _), text in zip(readable, texts, strict=True):
            if text:
                row["text"] = with_trigger(trigger, text)
            else:
                failed.append(Dropped(row["file_name"], "the model found no words"))
        unsaved += len(readable)
        advance(len(missing[start : start + batch_size]))
        if unsaved >= SAVE_EVERY or start + batch_size >= len(missing):
            _write_rows(folder, rows)
            unsaved = 0
    return CaptionReport(len(missing) - len(failed), existing, tuple(failed))


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    """Raw rows, checked by the reader that training uses; a folder without metadata has one row a picture."""
    checked = open_picture_set(folder).rows
    metadata = folder / METADATA
    if not metadata.is_file():
        return [{"file_name": row.file_name} for row in checked]
    return [json.loads(line) for line in metadata.read_text(encoding="utf-8").split("\n") if line.strip()]


def _write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    partial = folder / f".{METADATA}.partial"
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(folder / METADATA)
