"""Pages in a real browser: Chromium without a window, and axe-core, which finds what people with disabilities cannot use.

axe-core is not installed with genin: `AXE_MISSING` has the line that does it.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
COMMAND = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--virtual-time-budget=20000")
DARK = "--blink-settings=preferredColorScheme=0"
AXE_MISSING = "no axe-core: npm install --prefix /tmp/axe axe-core, then NODE_PATH=/tmp/axe/node_modules"


def axe_script() -> Path | None:
    """axe-core, in a folder of `NODE_PATH` or in `node_modules` of the present one."""
    folders = [*os.environ.get("NODE_PATH", "").split(os.pathsep), "node_modules"]
    found = [Path(folder) / "axe-core" / "axe.min.js" for folder in folders if folder]
    return next((path for path in found if path.is_file()), None)


def evaluate(
    page: str, expression: str, folder: Path, *, width: int | None = None, dark: bool = False, fragment: str = ""
) -> Any:
    """What a JavaScript expression (it may wait) gives in a page, in a frame of `width` px: windows are at least 500 px wide."""
    top = "document" if width is None else "parent.document"
    script = (
        f"<script>addEventListener('load', async () => {{ let found; try {{ found = await ({expression}); }}"
        f" catch (error) {{ found = String(error); }} {top}.title = JSON.stringify(found); }});</script>"
    )
    inner = page.replace("</body>", script + "</body>")
    if width is not None:
        frame = f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{html.escape(inner)}"></iframe>'
        inner = f"<!doctype html><title></title>{frame}"
    file = folder / "in_browser.html"
    file.write_text(inner, encoding="utf-8")
    command = [str(CHROMIUM), *COMMAND, *([DARK] if dark else []), "--dump-dom", file.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stdout[:500]
    return json.loads(html.unescape(title[1]))


def violations(page: str, folder: Path, *, width: int, dark: bool, before: str = "null") -> list[str]:
    """Rule and first place of everything that axe-core finds wrong, with every fold open, after the expression `before`."""
    path = axe_script()
    assert path is not None
    axe = path.read_text(encoding="utf-8").replace("</script", "<\\/script")
    run = (
        "(async () => { for (const one of document.querySelectorAll('details')) one.open = true; "
        f"const scheme = matchMedia('(prefers-color-scheme: dark)').matches; {before}; "
        "const found = await axe.run(document, {resultTypes: ['violations']}); "
        "const wrong = found.violations.map(one => `${one.id}: ${one.nodes[0].target}`); "
        "return {dark: scheme, rules: found.passes.length, wrong}; })()"
    )
    found = evaluate(page.replace("</body>", f"<script>{axe}</script></body>"), run, folder, width=width, dark=dark)
    assert isinstance(found, dict), found
    assert found["dark"] == dark and found["rules"] > 10, found
    wrong: list[str] = found["wrong"]
    return wrong
