"""A program of somebody else's: `mypy --strict` and pyright see genin's types from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import genin


def one(model: str) -> genin.Picture:
    with genin.load(model, runtime="onnxruntime", precision="fp16", threads=2) as pipe:
        assert_type(pipe, genin.Pipeline)
        picture = pipe("a ninja", seed=7, steps=4, size=None)
        assert_type(picture, genin.Picture)
        assert_type(picture.array, NDArray[np.uint8])
        assert_type(pipe(["a ninja", "a monk"], seed=[1, 2]), list[genin.Picture])
        assert_type(pipe("a ninja", seed=[1, 2]), list[genin.Picture])
        assert_type(pipe.generate("a ninja", 7), genin.Generation)
        assert_type(
            pipe("a monk", image=picture, strength=pipe.strengths()[0], mask=picture.array[:, :, 0]), genin.Picture
        )
        return picture


def previews(pipe: genin.Pipeline) -> Iterator[NDArray[np.uint8]]:
    for step in pipe.stream("a ninja", seed=7):
        assert_type(step, genin.StreamStep)
        yield step.preview()


def read_back(path: str) -> genin.Picture:
    picture = genin.Picture.open(path)
    assert_type(picture.shape, tuple[int, ...])
    assert picture == genin.Picture(picture.array, picture.settings, picture.origin)
    return picture


def exported(student: str) -> genin.benchmarks.Grid:
    from genin.benchmarks import BenchOptions, bench, compare
    from genin.export import ExportOptions, export

    result = export(student, "student.genin", ExportOptions(formats="onnx", single_graphs=4, plans="plan.json"))
    bench(result.path, BenchOptions(runtimes=["onnxruntime"], precisions="fp16", steps=4, report="bench.html"))
    return compare(result.path, "sheet.png")


def checked(bundle: str) -> bool:
    try:
        report = genin.verify(bundle)
        assert_type(report, genin.Report)
        return report.ok
    except genin.MissingExtraError as error:
        assert_type(error.extra, str)
        return False
    except genin.GeninError as error:
        raise SystemExit(error.exit_code) from error


def wrong(pipe: genin.Pipeline) -> None:
    pipe(7)  # type: ignore[call-overload]  # pyright: ignore
    pipe("a ninja", stepz=4)  # type: ignore[call-overload]  # pyright: ignore
