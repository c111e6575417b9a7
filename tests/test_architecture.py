"""Who imports whom: only along the arrows of the package's map."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import rtspecinv

PACKAGE = Path(rtspecinv.__file__).parent
#         module: what of rtspecinv it may import
ARROWS = {
    "stft": set(),
    "frames": {"stft"},
    "projections": {"frames", "stft"},
    "updates": {"stft"},
    "phase": {"stft"},
    "metrics": {"stft"},
    "analysis": {"stft"},
    "transforms": set(),
    "progress": set(),
    "threads": set(),
    "batch": {"engines", "streaming", "updates", "projections", "phase", "inputs", "progress", "stft"},
    "blocks": {"batch", "streaming", "inputs", "stft"},
    "descent": {"batch", "inputs", "progress", "stft"},
    "mel_config": {"inputs", "stft"},
    "mel_bank": {"mel_config", "inputs"},
    "mel_stream": {"mel_bank", "mel_config", "engines", "streaming", "updates", "inputs"},
    "mel": {"mel_bank", "mel_config", "mel_stream", "inputs"},
    "mel_presets": {"mel", "mel_config", "stft"},
    "evidence": {"inputs"},
    "mel_fit": {"evidence", "mel", "mel_config", "mel_presets", "inputs"},
    "diagnosis": {"evidence", "mel_fit", "mel_presets", "inputs", "stft"},
    "methods": {
        *("descent", "batch", "streaming", "updates", "metrics", "phase", "inputs", "progress", "stft"),
    },
    "engines": {"engines", "updates", "projections", "phase", "frames", "stft"},
    "inputs": {"stft"},
    "streaming": {"engines", "updates", "phase", "inputs", "threads", "stft"},
    "audio": {"audio"},
    "metadata": {"mel_config", "stft"},
    "images": set(),
    "scales": {"inputs", "mel_config", "metadata", "stft"},
    "readers": {"images", "scales", "metadata", "mel_config"},
    "files": {"readers", "images", "metadata", "mel_config", "stft"},
    "saving": {"images", "scales", "metadata", "mel", "mel_config", "mel_presets", "inputs", "stft"},
    "listening": {
        *("audio", "files", "saving", "metadata", "diagnosis", "mel", "mel_config", "mel_stream"),
        *("streaming", "updates", "inputs", "stft"),
    },
    "demo_clip": set(),
    "speech": set(),
    "plots": set(),
    "__init__": {
        *("engines", "metrics", "phase", "speech", "updates", "audio", "stft", "streaming"),
        *("analysis", "transforms", "batch", "blocks", "descent", "methods"),
        *("mel", "mel_config", "mel_stream", "mel_presets", "diagnosis"),
        *("files", "saving", "scales", "listening"),
    },
    "cli": {  # "" is rtspecinv itself: public names
        *("", "cli", "audio", "files", "images", "metadata", "scales", "demo_clip", "plots", "threads"),
        "transforms",
    },
    "__main__": {"cli"},
}


def imports(path: Path) -> set[str]:
    """Rooms of rtspecinv that a module imports; "" for the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            base = node.module or ""
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "rtspecinv" else {base}
    return {[*name.split("."), ""][1] for name in found if name.split(".")[0] == "rtspecinv"}


def test_imports_follow_the_arrows():
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert room in ARROWS, f"{path} is in no room of the map"
        strays = imports(path) - ARROWS[room]
        assert not strays, f"{room} imports {strays}"


def test_import_is_light():
    heavy = {"sounddevice", "soundfile", "matplotlib", "scipy", "numba"}
    code = f"import sys, rtspecinv, rtspecinv.streaming; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
