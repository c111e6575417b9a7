"""Program that draws docs/page.png, a screenshot of the page of `rtspecinv serve` in Chromium.

python docs/screenshot.py
python docs/screenshot.py FILE WIDTH HEIGHT

It needs node, Chromium, `npm ci --prefix tests/page`, and the extras `serve` and `files`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tests" / "page" / "screenshot.mjs"
N_COLOURS = 128


def main(path: str = str(ROOT / "docs" / "page.png"), width: str = "1000", height: str = "700") -> None:
    """Start a server, paint on its page, and save a screenshot of this size with few colours."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    command = [sys.executable, "-m", "rtspecinv", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stderr or ():
                if url := re.search(r"http://\S+/", line):
                    subprocess.run(["node", SCRIPT, chromium, url[0], path, width, height], check=True)
                    break
        finally:
            server.terminate()
    Image.open(path).convert("RGB").quantize(N_COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
