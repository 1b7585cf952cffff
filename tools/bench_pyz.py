"""Make genin-bench.pyz: `genin bench` as one file, for phones and boards that have Python, numpy and an engine.

    python tools/bench_pyz.py --out genin-bench.pyz
    python genin-bench.pyz --runtime onnxruntime                # the built-in students
    python genin-bench.pyz my-bundle.genin --threads 1,2

Inside are the parts of genin that need no torch, the built-in students, and the pure Python packages that the command line needs,
as they are installed where this is run. numpy and the engines are compiled for each machine, so they stay the host's own. Pages
(`--report`) need the host to have what draws them.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipapp
from importlib.metadata import distribution
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"src/genin": "genin", "runtimes": "genin/runtimes", "benchmarks": "genin/benchmarks"}
LEFT_OUT = ("native", "golden", "pyinstaller", "nuitka", "quickstart", "cli_docs.py", "api_docs.py")
PACKAGES = {
    "click": "click",
    "rich": "rich",
    "platformdirs": "platformdirs",
    "PyYAML": "yaml",
}  # distribution => package
COMPILED = (".so", ".pyd", ".pyc")


def build(out: Path) -> Path:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for source, target in PARTS.items():
            _copy_part(ROOT / source, folder / target)
        for name, package in PACKAGES.items():
            _copy_package(name, package, folder)
        shutil.copy(ROOT / "LICENSE", folder / "genin" / "LICENSE")
        shutil.copy(Path(__file__).with_name("bench_pyz_start.py"), folder / "__main__.py")
        (folder / "digest.txt").write_text(_digest(folder), encoding="ascii")
        zipapp.create_archive(folder, out, interpreter="/usr/bin/env python3", compressed=True)
    return out


def _copy_part(source: Path, target: Path) -> None:
    """A part of genin without what nothing else in it imports, and without caches."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        caches = {name for name in names if name == "__pycache__" or name.startswith(".")}
        return caches | ({*LEFT_OUT} if folder == str(source) else set())

    shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)


def _copy_package(name: str, package: str, folder: Path) -> None:
    """An installed package with its metadata and licence; of what is compiled, it does without.

    Errors: ClickException for one that cannot be copied, or needs another package on Windows.
    """
    files = distribution(name).files
    if not files:
        raise click.ClickException(f"{name} is installed without a list of its files: install it with pip")
    for file in files:
        own = file.parts[0] == package or file.parts[0].endswith(".dist-info")
        if own and file.suffix not in COMPILED and file.name != "RECORD":
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target)
    if name == "click" and "colorama" in (folder / "click" / "_compat.py").read_text(encoding="utf-8"):
        raise click.ClickException("this click needs colorama on Windows: pip install 'click>=8.3'")


def _digest(folder: Path) -> str:
    """SHA-256 of all names and contents."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="genin-bench.pyz", show_default=True)
def main(out: Path) -> None:
    """Make genin-bench.pyz."""
    click.echo(f"{build(out)}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
