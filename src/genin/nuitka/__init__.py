"""What Nuitka has to put into a program that draws with genin: modules imported by name, and the shipped students.

    nuitka --standalone --user-package-configuration-file="$(python -m genin.nuitka)" game.py

Nuitka looks nowhere for the configurations of packages that it does not know, so this one has to be named.

Not here: PyInstaller, which finds its hook by itself (`genin.pyinstaller`).
"""

from __future__ import annotations

from pathlib import Path

CONFIGURATION = Path(__file__).with_name("genin.nuitka-package.config.yml")
