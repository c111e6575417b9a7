"""Who imports whom: only along the arrows of the package's map."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import rtspecinv

PACKAGE = Path(rtspecinv.__file__).parent
# What everything may import, and what these may.
GROUND = {
    "checks": set(),
    "masks": set(),
    "modes": set(),
    "printable": set(),
    "settings": {"printable"},
    "warning": set(),
    "whole_files": {"printable"},
}
#         module: what of rtspecinv it may import, beside the ground
ARROWS = {
    "stft": set(),
    "frames": {"stft"},
    "projections": {"frames"},
    "updates": set(),
    "levels": {"stft"},
    "phase": {"projections", "stft"},
    "metrics": {"stft"},
    "analysis": {"stft"},
    "conventions": {"inputs", "stft"},
    "transforms": set(),
    "progress": set(),
    "threads": set(),
    "batch": {
        *("engines", "streaming", "updates", "projections", "phase", "inputs", "levels", "progress"),
        "stft",
    },
    "blocks": {"batch", "inputs", "levels", "stft"},
    "descent": {"levels", "batch", "inputs", "progress", "stft"},
    "mel_config": {"stft"},
    "mel_bank": {"mel_config", "inputs"},
    "mel_stream": {"mel_bank", "mel_config", "engines", "checkpoint", "streaming", "updates", "inputs"},
    "mel": {"mel_bank", "mel_config", "mel_stream", "inputs"},
    "mel_presets": {"mel", "mel_config"},
    "evidence": {"inputs"},
    "mel_fit": {"evidence", "mel", "mel_config", "mel_presets", "inputs"},
    "diagnosis": {"evidence", "mel_fit", "mel_presets", "inputs", "stft"},
    "methods": {
        *("descent", "batch", "streaming", "updates", "metrics", "phase", "inputs", "progress", "stft"),
    },
    "engines": {"engines", "updates", "projections", "phase", "frames", "stft"},
    "inputs": {"stft"},
    "checkpoint": set(),
    "streaming": {"checkpoint", "engines", "updates", "phase", "inputs", "threads", "stft"},
    "audio": {"audio"},
    "bounds": {"mel_config"},
    "metadata": {"mel_config", "stft"},
    "images": set(),
    "scales": {"conventions", "mel_config", "metadata"},
    "readers": {"images", "scales", "metadata", "mel_config"},
    "files": {
        *("bounds", "conventions", "readers", "images", "metadata", "mel", "mel_config", "mel_presets"),
        "stft",
    },
    "saving": {
        *("conventions", "images", "scales", "metadata", "mel", "mel_config", "mel_presets", "inputs"),
        "stft",
    },
    "listening": {
        *("audio", "files", "metadata", "diagnosis", "mel", "mel_config", "mel_presets", "mel_stream"),
        *("conventions", "streaming", "updates", "inputs", "levels", "stft"),
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
        *("bounds", "inputs", "levels", "transforms"),
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
        assert room in ARROWS or room in GROUND, f"{path} is in no room of the map"
        strays = imports(path) - (GROUND[room] if room in GROUND else ARROWS[room] | set(GROUND))
        assert not strays, f"{room} imports {strays}"


def test_import_is_light():
    heavy = {"sounddevice", "soundfile", "matplotlib", "scipy", "numba"}
    code = f"import sys, rtspecinv, rtspecinv.streaming; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


FACTORIES = {
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "logspace",
    "ones",
    "rand",
    "randn",
    "tensor",
    "zeros",
}


def test_every_tensor_is_made_on_a_device_and_in_a_dtype_that_are_named():
    """What torch's defaults are belongs to the caller. Whole numbers have one dtype whatever they are."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name)) if name in FACTORIES:
                    given = {keyword.arg for keyword in node.keywords}
                    assert "device" in given, f"{path}:{node.lineno}"
                    assert "dtype" in given or name == "arange", f"{path}:{node.lineno}"
