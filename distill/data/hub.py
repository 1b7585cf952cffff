"""Data sets of the Hugging Face hub as local folders: which of their files are needed, and the licence that their card states.

These are parquet files, pictures with their metadata and sidecars, videos and comics, and the card. `data prepare` treats the
snapshot like any folder, so files that cannot be downloaded may also be copied.

Not here: names and errors of the hub (`genin.hub.repository`), reading the files (`find`, `parquet`).
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from genin.dataset.folders import SIDECAR_SUFFIXES, is_hidden
from genin.dataset.tables import is_metadata
from genin.dataset.text import clean, decode_any
from genin.distill.data.find import CARD_NAME, KNOWN_SUFFIXES, is_excluded
from genin.hub.repository import HubName, OfflineError, cached, list_files, snapshot
from genin.runtimes.errors import InputError
from genin.runtimes.wording import counted

SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>[.-].*)")
PARQUET_COPY = (
    "refs/convert/parquet"  # the branch where the hub keeps a parquet copy of sets that come as anything else
)


def fetch(text: str, exclude: Sequence[str] = ()) -> Path:
    """The local snapshot of the hub's data set `owner/name` or `owner/name@revision`, without what `exclude` matches.

    Errors: InputError for a set that does not exist, is gated, has no usable files, or is not available offline.
    """
    name = HubName.parse(text, "dataset")
    available = list_files(name)
    if available is None:
        return _without_network(name, text)
    wanted = wanted_files(available, exclude)
    if not any(PurePosixPath(file).suffix.lower() in KNOWN_SUFFIXES for file in wanted):
        kinds = Counter(PurePosixPath(file).suffix or "no suffix" for file in available).most_common(5)
        remedy = f"the hub may have a parquet copy of it: {name.repository}@{PARQUET_COPY}"
        listed = ", ".join(f"{suffix} ×{count}" for suffix, count in kinds)
        raise InputError(
            f"the dataset holds no parquet files and no pictures ({listed})", where=f"hub:{name}", remedy=remedy
        )
    return snapshot(name, wanted) or _without_network(name, text)


def wanted_files(available: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """Of a hub repository's files, those that `data prepare` reads; hidden files and folders are ignored."""
    wanted = []
    for file in available:
        path = PurePosixPath(file)
        if is_hidden(file) or is_excluded(file, exclude):
            continue
        known = path.suffix.lower() in (*KNOWN_SUFFIXES, *SIDECAR_SUFFIXES) or is_metadata(path.name)
        if known or file == CARD_NAME:
            wanted.append(file)
    return wanted


def card_licence(folder: Path) -> str | None:
    """What the card of a data set (the front matter of its README.md) says its licence is; None where it says nothing."""
    card = folder / CARD_NAME
    if not card.is_file() or not (text := _card_text(card)).startswith("---"):
        return None
    from huggingface_hub import metadata_load

    try:
        with tempfile.TemporaryDirectory(prefix="genin-") as folder_of_copy:
            copy = Path(folder_of_copy) / CARD_NAME  # in UTF-8 without a mark, as the hub's reader wants it
            copy.write_text(text, encoding="utf-8")
            said = metadata_load(copy) or {}
    except ValueError:  # not YAML, or not a mapping: a page that begins with a horizontal rule
        return None
    except Exception as error:  # whatever YAML's reader makes of a broken card
        raise InputError("the card's front matter is not YAML", where=card, remedy="fix or remove the card") from error
    licence = said.get("license")
    if licence == "other":
        licence = said.get("license_name") or said.get("license_link") or licence
    licences = licence if isinstance(licence, list) else [licence]
    return ", ".join(clean(one) for one in licences if one and one != "unknown") or None


def _card_text(card: Path) -> str:
    """The licence's name is ASCII in every encoding of cards, so that what cannot be decoded is no loss."""
    content = card.read_bytes()
    try:
        return decode_any(content).text
    except ValueError:
        return content.decode("utf-8", "replace")


# --- without a network -----------------------------------------------------------------------------------------------


def _without_network(name: HubName, text: str) -> Path:
    where = cached(name)
    lacks = () if where is None else _lacks(where)
    if where is not None and not lacks:
        return where
    what = f"'{text}' is not a local path, and the hub cannot be reached"
    if where is not None:
        what = (
            f"'{text}' is only partly in the hub's cache ({where}; {', '.join(lacks)}), and the hub cannot be reached"
        )
    folder, revision = f"./{name.short}", f" --revision {name.revision}" if name.revision else ""
    raise OfflineError(
        what,
        f"put the files of {name.address} into a folder, say {folder}: its .parquet files, or its pictures with their "
        f"metadata.jsonl, and README.md for the licence (where there is a network: huggingface-cli download {name.repository} "
        f"--repo-type dataset{revision} --local-dir {folder})",
        name=text,
        folder=folder,
    )


def _lacks(folder: Path) -> list[str]:
    """What a cached snapshot evidently lacks: shards of a numbered set, and interrupted downloads."""
    lacks = []
    sets: dict[tuple[str, str, str], set[int]] = {}
    for path in folder.rglob("*"):
        if (found := SHARD.fullmatch(path.relative_to(folder).as_posix())) is not None:
            sets.setdefault((found["stem"], found["count"], found["rest"]), set()).add(int(found["number"]))
    for (stem, count, rest), numbers in sorted(sets.items()):
        lacks += [f"no {stem}-{n:05d}-of-{count}{rest}" for n in range(int(count)) if n not in numbers][:3]
    stopped = list((folder.parents[1] / "blobs").glob("*.incomplete"))
    return [*lacks, f"{counted(len(stopped), 'download was', 'downloads were')} stopped"] if stopped else lacks
