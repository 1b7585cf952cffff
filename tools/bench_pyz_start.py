"""`__main__.py` of genin-bench.pyz: unpacks it once into a cache folder, and runs `genin bench` from there.

Everything is unpacked, not only the weights: engines want paths, and the processes that are measured import genin as usual.
Standard library and platformdirs only, and old syntax, so that an old Python is told what is missing.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

OLDEST = (3, 11)


def main():
    """Run `genin bench` with the arguments given; ends with its exit code."""
    if sys.version_info < OLDEST:
        return "genin-bench needs Python {}.{} or later; this is {}.{}".format(*OLDEST, *sys.version_info[:2])
    if importlib.util.find_spec("numpy") is None:
        return "genin-bench needs numpy and an engine: pip install numpy onnxruntime"
    folder = str(unpacked(Path(sys.path[0])))
    sys.path[0] = folder
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    sys.argv[:1] = ["genin", "bench"]
    from genin.cli import main as run

    return run()


def unpacked(archive):
    """The folder with the archive's content, which is made once; whole, by renaming."""
    with zipfile.ZipFile(archive) as file:
        folder = cache() / ("bench-" + file.read("digest.txt").decode()[:16])
        if folder.is_dir():
            return folder
        partial = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=folder.name + "-", dir=folder.parent))
            file.extractall(partial)
            partial.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # unless another process was faster
                sys.exit(
                    f"genin-bench cannot be unpacked into {folder.parent} ({error.strerror}); set GENIN_CACHE to a folder"
                )
        finally:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def cache():
    """genin's cache folder (`genin.names.cache_folder`); platformdirs comes from the archive, as nothing is unpacked yet."""
    from platformdirs import user_cache_path

    own = os.environ.get("GENIN_CACHE")
    return Path(own).expanduser() if own else user_cache_path("genin", appauthor=False, opinion=False)


if __name__ == "__main__":
    sys.exit(main())
