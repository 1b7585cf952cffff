"""A hub without a network: folders as repositories, and the client's own functions, errors and cache layout in front of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


class FakeHub:
    """`repositories`: (kind, name, revision or None) => folder. `online` False: nobody answers. `fails_at`: a file that no more
    arrives, nor anything after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        import huggingface_hub

        self.cache, self.online = cache, True
        self.repositories: dict[tuple[str, str, str | None], Path] = {}
        self.gated: set[str] = set()
        self.fails_at: str | None = None
        self.calls: list[tuple[str, Any]] = []
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def add(self, folder: Path, name: str, kind: str = "model", revision: str | None = None) -> None:
        self.repositories[kind, name, revision] = folder

    def list_repo_files(self, name: str, *, revision: str | None, repo_type: str) -> list[str]:
        folder = self._folder(name, revision, repo_type)
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str | None,
        repo_type: str,
        allow_patterns: Sequence[str] | None = None,
        local_files_only: bool = False,
    ) -> str:
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
        from huggingface_hub.utils import filter_repo_objects

        self.calls.append((name, allow_patterns))
        place = f"{repo_type}s--{name.replace('/', '--')}/snapshots/{(revision or 'main').replace('/', '-')}"
        local = self.cache / place
        if local_files_only or not self.online:
            if local.is_dir():
                return str(local)
            raise LocalEntryNotFoundError("cannot find the snapshot on disk, and outgoing traffic is disabled")
        if name in self.gated:
            raise GatedRepoError("403: accept the terms", response=_response(403))
        folder = self._folder(name, revision, repo_type)
        listed = self.list_repo_files(name, revision=revision, repo_type=repo_type)
        wanted = list(filter_repo_objects(listed, allow_patterns=allow_patterns))
        for file in wanted:
            if file == self.fails_at:
                self.online = False
                raise ConnectionError("the line is dead")
            (local / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, local / file)
        return str(local)

    def _folder(self, name: str, revision: str | None, kind: str) -> Path:
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        if not self.online:
            raise ConnectionError("nobody answers")
        if (kind, name, revision) in self.repositories:
            return self.repositories[kind, name, revision]
        if any(key[:2] == (kind, name) for key in self.repositories):
            raise RevisionNotFoundError("404: no such revision", response=_response(404))
        raise RepositoryNotFoundError("401: invalid username or password", response=_response(401))


def _response(status: int) -> Any:
    import requests

    response = requests.Response()
    response.status_code = status
    return response


def write_fake_bundle(
    folder: Path, graphs: Sequence[str] = ("onnx/fp32", "onnx/fp16", "openvino/fp32"), golden: bool = True
) -> None:
    """A bundle whose manifest is right and whose graphs are a few bytes each: for whatever runs none of them."""
    from genin.runtimes.bundle import Bundle, GraphEntry, Manifest, ModelInfo, file_entry, write_manifest
    from genin.runtimes.manifest import GoldenEntry, ImageSize, Latents, SamplerConstants, TextConstants
    from genin.runtimes.vocabulary import COMPONENTS

    def entry(name: str, content: str) -> Any:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
        return file_entry(folder, name)

    def graph(kind: str, component: str) -> GraphEntry:
        format, precision = kind.split("/")
        path = f"{kind}/{component}/model.{'onnx' if format == 'onnx' else 'xml'}"
        files = (entry(path, kind), entry(f"{kind}/{component}/weights.bin", kind))
        about: dict[str, Any] = {"component": component, "format": format, "precision": precision}
        made: dict[str, Any] = {"converter": "none", "stored": precision, "compute": precision}
        return GraphEntry(**about, **made, path=path, files=files, inputs=(), outputs=())

    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    cases = [entry(f"golden/{component}.npz", component) for component in COMPONENTS] if golden else []
    manifest = Manifest(
        name="fake",
        genin_version="0.1.0",
        model=ModelInfo(kind="student", licence="Apache-2.0", title="Fake"),
        image=ImageSize(32, 32),
        latents=Latents(4, 8, 8, 1.0),
        text=TextConstants(8, 32, 1, 0, 1),
        sampler=SamplerConstants(
            name="ddim",
            prediction_type="epsilon",
            scheduler={},
            default_steps=1,
            guidance="baked",
            guidance_scale=1.0,
        ),
        graphs=tuple(graph(kind, component) for kind in graphs for component in COMPONENTS),
        golden=tuple(
            GoldenEntry(case.path, case.sha256, case.size_bytes, component)
            for case, component in zip(cases, COMPONENTS, strict=False)
        ),
        files=(
            entry("README.md", "# fake"),
            entry("tokenizer/vocab.json", json.dumps(vocabulary)),
            entry("tokenizer/merges.txt", "#version: 0.2\n"),
        ),
    )
    write_manifest(manifest, folder)
    Bundle.open(folder).close()
