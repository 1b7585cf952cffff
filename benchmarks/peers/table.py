"""The peers of `genin bench --peers`: what each opens, how it is started, what installs it, and what it does differently.

A peer draws in a process of its own, under the protocol of genin's own processes (`genin.benchmarks.speed.bench_worker`). One in
Python is a function of this package, called there; one in another language is a program that answers the same requests. It opens
what genin opens: a model folder, or the graphs of a bundle, with the same number of threads, steps, guidance and size. Where a peer
takes latents it gets genin's noise, and its pictures must be genin's; what is not equal is in `differs`, and on its row.

A peer draws one picture at a time, of the model's own size. Not here: measuring (`genin.benchmarks.speed`).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from genin.benchmarks.peers import node
from genin.benchmarks.results.files import GENIN
from genin.runtimes.errors import GeninError
from genin.runtimes.vocabulary import check_choice

ALL: Final = "all"
MODEL_FOLDER: Final = "model"  # in place of a bundle's format
WORKER_MODULE: Final = "genin.benchmarks.speed.bench_worker"
OWN_NOISE: Final = "draws its own noise: its pictures are not compared"

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Peer:
    """`runtime` is the engine below it, `opens` what it opens: a format of bundles, or `MODEL_FOLDER`. `module` and `distribution`
    are what must be installed, by its name for import and for pip. `opener` is "module:function" for one in Python; `program` gives
    the command line of any other, and `first_request` what that is sent first. `compiles`: the first picture includes compilation.
    `own_noise`: it does not take latents."""

    runtime: str
    opens: str
    install: str
    module: str = ""
    distribution: str = ""
    opener: str = ""
    program: Callable[[], list[str]] | None = None
    first_request: Callable[[Request], dict[str, Any]] | None = None
    is_here: Callable[[], bool] | None = None
    differs: Sequence[str] = ()
    compiles: bool = False
    own_noise: bool = False

    def is_installed(self) -> bool:
        """Whether it can be started here, as far as that is known without starting it."""
        if self.is_here is not None:
            return self.is_here()
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:
            return False

    def version(self) -> str | None:
        """The installed release of its package."""
        if self.is_here is not None:
            return node.version()
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None

    def all_differences(self) -> list[str]:
        return [*self.differs, *([OWN_NOISE] if self.own_noise else [])]

    def precisions(self, graphs: Sequence[Mapping[str, Any]]) -> list[str]:
        """Those that it can open of a bundle's graphs; fp32 of a model folder."""
        if self.opens == MODEL_FOLDER:
            return ["fp32"]
        return list(dict.fromkeys(str(graph["precision"]) for graph in graphs if graph["format"] == self.opens))


PEERS: Final[dict[str, Peer]] = {
    "diffusers": Peer(
        runtime="pytorch",
        opens=MODEL_FOLDER,
        install="pip install diffusers transformers torch",
        module="diffusers",
        distribution="diffusers",
        opener="genin.benchmarks.peers.diffusers_like:open_diffusers",
    ),
    "diffusers-compile": Peer(
        runtime="pytorch",
        opens=MODEL_FOLDER,
        install="pip install diffusers transformers torch",
        module="diffusers",
        distribution="diffusers",
        opener="genin.benchmarks.peers.diffusers_like:open_compiled",
        differs=("torch.compile works before the first picture: cold start and first picture include it",),
        compiles=True,
    ),
    "optimum-onnx": Peer(
        runtime="onnxruntime",
        opens="onnx",
        install="pip install optimum-onnx onnxruntime",
        module="optimum.onnxruntime",
        distribution="optimum-onnx",
        opener="genin.benchmarks.peers.diffusers_like:open_optimum_onnx",
    ),
    "optimum-intel": Peer(
        runtime="openvino",
        opens="openvino",
        install="pip install optimum-intel openvino",
        module="optimum.intel",
        distribution="optimum-intel",
        opener="genin.benchmarks.peers.diffusers_like:open_optimum_intel",
    ),
    "openvino-genai": Peer(
        runtime="openvino",
        opens="openvino",
        install="pip install openvino-genai",
        module="openvino_genai",
        distribution="openvino-genai",
        opener="genin.benchmarks.peers.genai:open_genai",
    ),
    "stable-diffusion.cpp": Peer(
        runtime="ggml",
        opens=MODEL_FOLDER,
        install="pip install stable-diffusion-cpp-python",
        module="stable_diffusion_cpp",
        distribution="stable-diffusion-cpp-python",
        opener="genin.benchmarks.peers.sdcpp:open_sdcpp",
        differs=("samples with ddim_trailing, or Euler where the model has other timesteps",),
        own_noise=True,
    ),
    "onnxruntime-web": Peer(
        runtime="onnxruntime-web",
        opens="onnx",
        install="npm install onnxruntime-web, in this folder or one named by NODE_PATH",
        program=node.command,
        first_request=node.first_request,
        is_here=node.is_installed,
        differs=("prompts are turned into tokens beforehand",),
    ),
}  # fmt: skip


def named_peers(names: Sequence[str]) -> tuple[str, ...]:
    """Peers by name, `all` for each. Errors: InputError listing those there are."""
    known = [check_choice(name, (ALL, *PEERS), "peer") for name in names]
    return tuple(PEERS) if ALL in known else tuple(dict.fromkeys(known))


def start_of(program: str, request: Request) -> tuple[list[str], dict[str, Any] | None]:
    """A peer's command line, and what its process is sent first, if anything.

    Errors: GeninError for a peer that is not installed, with the line that installs it, or that cannot open the model.
    """
    peer = PEERS[program]
    if not peer.is_installed():
        raise GeninError("it is not installed", remedy=peer.install)
    asked = {**request, "format": peer.opens}
    if peer.program is not None and peer.first_request is not None:
        return peer.program(), peer.first_request(asked)
    return [sys.executable, "-m", WORKER_MODULE, json.dumps({**asked, "opener": peer.opener})], None


def packages_of(programs: Sequence[str]) -> dict[str, str]:
    """Distributions of peers => their releases, as far as they are installed."""
    names = {name: PEERS[name].distribution or name for name in dict.fromkeys(programs) if name != GENIN}
    found = {distribution: PEERS[name].version() for name, distribution in names.items()}
    return {name: release for name, release in found.items() if release is not None}


def folder_remedy(program: str, path: Path) -> str:
    """Why a peer cannot open a model, and what it opens."""
    opens = PEERS[program].opens
    if opens == MODEL_FOLDER:
        return "it opens model folders, not bundles: name the model folder that this one was exported from, too"
    if (path / "model_index.json").is_file():
        return f"it opens bundles with {opens} graphs: genin export MODEL --format {opens}"
    return f"it opens {opens} graphs, and the bundle has none: genin export MODEL --format {opens}"
