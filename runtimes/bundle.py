"""Bundles on disk: a folder, or the same packed as one `.genin` file (a zip whose members are stored, not compressed).

`Bundle.open` reads the manifest and checks schema, paths and the size of every file listed, and reads nothing else. A snapshot in
the Hugging Face cache may lack files, since only those that a run needs are downloaded: a missing one is an error when it is used.
Hashes are checked when files are used (`local`) or all together (`check_hashes`). Whatever is wrong is a `BundleError`. A file of a
`.genin` is copied to a private temporary folder when it is first needed, since every engine wants paths and Core ML folders; only
files listed in the manifest are copied, under the names it gives them, and `close` removes them.

Refused: paths that leave the bundle, links, duplicate or compressed or encrypted members, members that overlap, sizes
that differ from the manifest. Ignored: files that the manifest does not list. Never read: pickles.

Not here: what the manifest says (`genin.runtimes.manifest`, whose classes are re-exported), running graphs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Protocol, cast

from genin.runtimes.errors import BundleError, InputError
from genin.runtimes.files import atomic_path, refused_write, write_text
from genin.runtimes.manifest import (
    EXACT_PSNR_DB,
    FORMAT,
    MANIFEST,
    TOKENIZER,
    FileEntry,
    GoldenEntry,
    GraphEntry,
    ImageSize,
    Latents,
    Manifest,
    ModelInfo,
    Parity,
    SamplerConstants,
    SingleGraphEntry,
    TensorSpec,
    TextConstants,
    check_path,
)

__all__ = [
    "EXACT_PSNR_DB",
    "FORMAT",
    "MANIFEST",
    "SUFFIX",
    "TOKENIZER",
    "Bundle",
    "FileEntry",
    "GoldenEntry",
    "GraphEntry",
    "ImageSize",
    "Latents",
    "Manifest",
    "ModelInfo",
    "Parity",
    "SamplerConstants",
    "SingleGraphEntry",
    "TensorSpec",
    "TextConstants",
    "check_path",
    "file_entry",
    "is_bundle",
    "pack",
    "why_no_bundle",
    "write_manifest",
]

SUFFIX = ".genin"


def is_packed_name(name: str | Path) -> bool:
    """Whether a bundle of this name is one file."""
    return Path(name).suffix.lower() == SUFFIX


MANIFEST_LIMIT_BYTES = 16 << 20
CHUNK_BYTES = 1 << 20
EXPORT_AGAIN = "export or download it again"
GIVE_A_MODEL = "give a model folder (model_index.json), a bundle folder (manifest.json) or a .genin file"
# How files begin that are given in place of a bundle.
PICTURE: Final = ("this is a picture, not a model or a bundle", GIVE_A_MODEL)
BEGINNINGS: Final = (
    ((b"PK\x03\x04",), "the bundle is damaged, or not copied or downloaded whole", EXPORT_AGAIN),
    ((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a"), *PICTURE),
    ((b"version https://git-lfs",), "this is a Git LFS pointer, not the file itself", "git lfs pull fetches it"),
    (
        (b"{",),
        "this is JSON, not a model or a bundle",
        f"results of genin bench: genin bench compare OLD NEW; else {GIVE_A_MODEL}",
    ),
    ((b"<",), "this is a web page, not a bundle", "download the file itself"),
)
# What `zipfile` raises on damaged or hostile archives, beside BadZipFile.
ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, OverflowError, struct.error)


class Bundle:
    """An opened bundle. A context manager; `close` removes what was unpacked."""

    def __init__(self, path: Path, store: Store, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._store = store
        self._files = manifest.all_files()
        self._checked: dict[str, tuple[int, ...]] = {}

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a bundle folder or `.genin` file. Errors: BundleError naming what is wrong with it."""
        path = Path(path)
        if not path.exists():
            raise BundleError("no such bundle", where=path, remedy="give a bundle folder or a .genin file")
        store: Store = _Folder(path) if path.is_dir() else _Archive(path)
        try:
            size = store.size(MANIFEST)
            if size > MANIFEST_LIMIT_BYTES:
                raise BundleError(f"{MANIFEST} is too large ({size} bytes)")
            with store.stream(MANIFEST) as stream:
                manifest = Manifest.from_json(_read(stream, size))
            for entry in manifest.all_files().values():
                if not store.may_lack(entry.path):
                    _check_size(entry, store.size(entry.path))
        except BundleError as error:
            store.close()
            raise BundleError(error.what, where=path, remedy=error.remedy or EXPORT_AGAIN) from error
        except BaseException:
            store.close()
            raise
        return cls(path, store, manifest)

    def has_graphs(self, format: str, precision: str) -> bool:
        """Whether the graphs are there: of a bundle on the hub, only those that were asked for are downloaded."""
        graphs = self.manifest.components(format, precision).values()
        return not any(self._store.may_lack(file.path) for graph in graphs for file in graph.files)

    def entry(self, path: str) -> FileEntry:
        """Errors: BundleError if the manifest does not list `path`."""
        if path not in self._files:
            raise BundleError(f"the manifest does not list '{path}'", where=self.path, remedy=EXPORT_AGAIN)
        return self._files[path]

    def local(self, path: str) -> Path:
        """A listed file as a path on this machine, its hash checked once, and again after a change. Errors: BundleError."""
        entry = self.entry(path)
        try:
            place = self._store.local(entry)
            status = place.stat()
            state = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._checked.get(path) != state:
                with place.open("rb") as stream:
                    _check_hash(entry, _sha256(stream))
        except OSError as error:
            if refused := refused_write(error, Path(tempfile.gettempdir()), ", or name another folder with TMPDIR"):
                raise refused from error
            raise BundleError(f"cannot read '{path}' ({error.strerror})", where=self.path) from error
        except BundleError as error:
            raise BundleError(error.what, where=self.path, remedy=error.remedy or EXPORT_AGAIN) from error
        self._checked[path] = state
        return place

    def local_graph(self, graph: GraphEntry) -> Path:
        """A graph with all its files (external weights, `.bin`, the inside of an `.mlpackage`) => its local path."""
        places = [self.local(file.path) for file in graph.files]
        depth = len(Path(graph.files[0].path).parts)
        return places[0].parents[depth - 1] / graph.path

    def read_bytes(self, path: str) -> bytes:
        """A small listed file, its hash checked. Errors: BundleError."""
        return self.local(path).read_bytes()

    def hash_report(self) -> dict[str, bool]:
        """Every listed file: path => does its content have the manifest's hash?"""
        report = {}
        for entry in self._files.values():
            try:
                with self._store.stream(entry.path) as stream:
                    report[entry.path] = _sha256(stream) == entry.sha256
            except (*ZIP_ERRORS, BundleError):
                report[entry.path] = False
        return report

    def check_hashes(self) -> None:
        """Errors: BundleError naming the first file whose content is not what the manifest says."""
        for path, good in self.hash_report().items():
            if not good:
                raise BundleError(
                    f"'{path}' is damaged or was changed (wrong sha256)", where=self.path, remedy=EXPORT_AGAIN
                )

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


# --- where the bytes lie ---------------------------------------------------------------------------------------------


class Store(Protocol):
    """A folder or an archive. Every method raises BundleError for a path that is absent or refused."""

    def size(self, path: str) -> int: ...
    def may_lack(self, path: str) -> bool: ...
    def stream(self, path: str) -> IO[bytes]: ...
    def local(self, entry: FileEntry) -> Path: ...
    def close(self) -> None: ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def _place(self, path: str) -> Path:
        place = self.root / path
        if not place.is_file():
            absent = f"'{path}' is missing" if path != MANIFEST else f"not a bundle (no {MANIFEST})"
            raise BundleError(absent)
        actual = place.resolve()
        if actual != place and not self._is_hub_blob(actual):
            raise BundleError(f"'{path}' is a link, or behind one")
        return place

    @property
    def _is_hub_snapshot(self) -> bool:
        return self.root.parent.name == "snapshots"

    def _is_hub_blob(self, actual: Path) -> bool:
        """The Hugging Face cache keeps snapshots/REVISION/FILE as links into its own blobs/."""
        return self._is_hub_snapshot and actual.parent == self.root.parents[1] / "blobs"

    def size(self, path: str) -> int:
        return self._place(path).stat().st_size

    def may_lack(self, path: str) -> bool:
        """Whether `path` is absent only because it was not downloaded from the hub."""
        return self._is_hub_snapshot and not (self.root / path).exists()

    def stream(self, path: str) -> IO[bytes]:
        return self._place(path).open("rb")

    def local(self, entry: FileEntry) -> Path:
        place = self._place(entry.path)
        _check_size(entry, place.stat().st_size)
        return place

    def close(self) -> None:
        pass


class _Archive:
    def __init__(self, path: Path) -> None:
        try:
            self.zip = zipfile.ZipFile(path)
        except ZIP_ERRORS as error:
            what, remedy = why_no_bundle(path, error)
            raise BundleError(what, where=path, remedy=remedy) from error
        try:
            self.members = _checked_members(self.zip.infolist(), path.stat().st_size)
        except BundleError as error:
            self.zip.close()
            raise BundleError(error.what, where=path, remedy=EXPORT_AGAIN) from error
        self.unpacked: Path | None = None

    def _member(self, path: str) -> zipfile.ZipInfo:
        if path not in self.members:
            raise BundleError(f"'{path}' is missing" if path != MANIFEST else f"not a bundle (no {MANIFEST})")
        return self.members[path]

    def size(self, path: str) -> int:
        return self._member(path).file_size

    def may_lack(self, path: str) -> bool:
        return False

    def stream(self, path: str) -> IO[bytes]:
        try:
            return self.zip.open(self._member(path))
        except ZIP_ERRORS as error:
            raise BundleError(f"'{path}' cannot be read ({error})") from error

    def local(self, entry: FileEntry) -> Path:
        if self.unpacked is None:
            self.unpacked = Path(tempfile.mkdtemp(prefix="genin-"))
            # No TemporaryDirectory: that goes when any fork ends, too.
            self._remove = weakref.finalize(self, _remove_own, self.unpacked, os.getpid())
        place = self.unpacked / entry.path
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self.stream(entry.path) as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
            except BaseException as error:  # after a Ctrl-C, too: half a file would be taken for a damaged one
                place.unlink(missing_ok=True)
                if not isinstance(error, ZIP_ERRORS) or refused_write(error):
                    raise
                raise BundleError(f"'{entry.path}' cannot be unpacked ({error})") from error
        return place

    def close(self) -> None:
        self.zip.close()
        if self.unpacked is not None:
            self._remove()
            self.unpacked = None


def _remove_own(folder: Path, process: int) -> None:
    """What this process unpacked. On Windows a file stays while an engine has it open."""
    if process == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def _checked_members(members: Iterable[zipfile.ZipInfo], archive_bytes: int) -> dict[str, zipfile.ZipInfo]:
    checked: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    for member in members:
        name = check_path(member.filename.removesuffix("/"))
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BundleError(f"'{name}' is a link or a special file")
        if name.casefold() in folded:
            raise BundleError(f"'{name}' is in the archive twice")
        folded.add(name.casefold())
        if member.is_dir():
            continue
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
            raise BundleError(f"'{name}' is compressed or encrypted; a bundle's members are stored")
        checked[name] = member
    # Stored members that do not overlap cannot hold more than the archive does.
    if sum(member.file_size for member in checked.values()) > archive_bytes:
        raise BundleError("the archive's members are larger than the archive")
    return checked


# --- writing ---------------------------------------------------------------------------------------------------------


def is_bundle(path: str | Path) -> bool:
    """Whether `path` looks like a bundle: a folder with a manifest, a zip, or a name that says so. Its content is not checked."""
    path = Path(path)
    if path.is_dir():
        return (path / MANIFEST).is_file()
    return path.is_file() and (path.suffix == SUFFIX or zipfile.is_zipfile(path))


def why_no_bundle(path: Path, error: Exception | None = None) -> tuple[str, str]:
    """(what a file is that cannot be opened as a bundle, what to do)."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"the bundle cannot be read ({error.strerror})", "look at the file's rights and the disk"
    try:
        with path.open("rb") as stream:
            begins = stream.read(32)
    except OSError as failed:
        return why_no_bundle(path, failed)
    if not begins:
        return "the file is empty", EXPORT_AGAIN
    if begins.startswith(b"RIFF") and begins[8:12] == b"WEBP":
        return PICTURE
    begins = begins.lstrip()
    for beginnings, what, remedy in BEGINNINGS:
        if begins.startswith(beginnings):
            return what, remedy
    return "neither a model nor a bundle", GIVE_A_MODEL


def file_entry(root: Path, path: str) -> FileEntry:
    """Hash and size of ROOT/`path`, for a manifest."""
    with (root / path).open("rb") as stream:
        return FileEntry(check_path(path), _sha256(stream), (root / path).stat().st_size)


def write_manifest(manifest: Manifest, root: Path) -> None:
    """Write ROOT/manifest.json, by rename."""
    write_text(root / MANIFEST, manifest.to_json())


def pack(folder: Path, out: Path) -> None:
    """Pack a bundle folder as one `.genin`, written by rename. The same bundle gives the same bytes.

    Only the manifest and the files it lists are packed. Errors: BundleError, InputError if `out` cannot be written.
    """
    with Bundle.open(folder) as bundle:
        bundle.check_hashes()
        names = [MANIFEST, *sorted(bundle.manifest.all_files())]
        try:
            with atomic_path(out) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
                for name in names:
                    member = zipfile.ZipInfo(name)  # dated 1980-01-01: the archive depends on its content only
                    member.external_attr = (stat.S_IFREG | 0o644) << 16
                    member.file_size = (folder / name).stat().st_size
                    with (folder / name).open("rb") as source, archive.open(member, "w") as target:
                        shutil.copyfileobj(source, target, CHUNK_BYTES)
        except OSError as error:
            raise refused_write(error, out) or InputError(f"cannot write ({error.strerror})", where=out) from error


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_size(entry: FileEntry, size_bytes: int) -> None:
    if size_bytes != entry.size_bytes:
        what = "truncated" if size_bytes < entry.size_bytes else "too large"
        raise BundleError(f"'{entry.path}' is {what} ({size_bytes} bytes, the manifest says {entry.size_bytes})")


def _check_hash(entry: FileEntry, sha256: str) -> None:
    if sha256 != entry.sha256:
        raise BundleError(f"'{entry.path}' is damaged or was changed (wrong sha256)")


def _sha256(stream: IO[bytes]) -> str:
    return hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest()


def _read(stream: IO[bytes], size: int) -> bytes:
    try:
        data = stream.read(size + 1)
    except ZIP_ERRORS as error:
        raise BundleError(f"{MANIFEST} cannot be read ({error})") from error
    if len(data) != size:
        raise BundleError(f"{MANIFEST} is truncated")
    return data
