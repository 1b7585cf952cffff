"""A small real bundle of the tiny student, for tests of everything that reads bundles: ONNX and OpenVINO, fp32 and fp16.

The graphs come from genin's own converters; the manifest is put together here from the constants that the runtime reads
off the model folder, so that these tests do not hang on the exporter's commands.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from genin.runtimes.bundle import Bundle, GraphEntry, Manifest, ModelInfo, file_entry, write_manifest
from genin.runtimes.folder import read_constants

PRECISIONS = ("fp32", "fp16")


def write_tiny_bundle(model_folder: Path, out: Path, formats: tuple[str, ...] = ("onnx", "openvino")) -> None:
    from genin.distill.model_folder import load_model_folder
    from genin.export.components import components
    from genin.export.formats import TABLE, Target, converter
    from genin.export.plan import uniform

    graphs = []
    networks = components(load_model_folder(model_folder))
    for name in formats:
        for component in networks:
            place = TABLE[name].places[component.name]
            targets = [Target(uniform(precision), out / name / precision / place) for precision in PRECISIONS]
            for precision, written in converter(name)(component, targets).items():
                folder = written.path.parent
                files = [file_entry(out, str(file.relative_to(out))) for file in sorted(folder.iterdir())]
                graphs.append(
                    GraphEntry(
                        component=component.name,
                        format=name,
                        precision=precision,
                        path=str(written.path.relative_to(out)),
                        files=tuple(files),
                        inputs=written.inputs,
                        outputs=written.outputs,
                        converter=written.converter,
                        stored=written.stored,
                        compute=written.compute,
                        opset=written.opset,
                    )
                )
    shutil.copytree(model_folder / "tokenizer", out / "tokenizer")
    (out / "README.md").write_text("# tiny\n", encoding="utf-8")
    others = ["README.md", *(f"tokenizer/{file.name}" for file in sorted((out / "tokenizer").iterdir()))]
    image, latents, text, sampler = read_constants(model_folder)
    manifest = Manifest(
        name="tiny",
        genin_version="0.1.0",
        model=ModelInfo(kind="student", licence="Apache-2.0", title="Tiny", provenance={}, recipe={}),
        image=image,
        latents=latents,
        text=text,
        sampler=sampler,
        graphs=tuple(graphs),
        files=tuple(file_entry(out, path) for path in others),
    )
    write_manifest(manifest, out)
    Bundle.open(out).check_hashes()


def edit_manifest(bundle: Path, *path: str | int, value: object) -> None:
    """Set one key of a bundle's manifest."""
    file = bundle / "manifest.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(data), encoding="utf-8")
