# ruff: noqa: N999  (PyInstaller finds a hook by this name)
"""PyInstaller's hook for `import genin` (see `genin.pyinstaller`)."""

from genin.pyinstaller import data_files, excluded_imports, hidden_imports

hiddenimports = hidden_imports()
excludedimports = excluded_imports()
datas = data_files()
