"""Tests that modules import only along the arrows of docs/architecture.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import rtspecinv

PACKAGE = Path(rtspecinv.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
# Folders beside the package whose imports the page also restricts.
OUTSIDE = ("bench", "demos", "docs")


def rows(title: str) -> list[list[str]]:
    """Return the cells of the tables under a heading, without column titles."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]


def names(cell: str) -> list[str]:
    """Return the names between backticks."""
    return re.findall(r"`([\w./]+)`", cell)


def arrows() -> dict[str, set[str]]:
    """Return, for each part of the project, the parts that it may import."""
    return {names(room)[0]: set(names(allowed)) for room, allowed, *_ in rows("Permitted imports")}


def room_of(path: Path) -> str:
    if path.is_relative_to(PACKAGE):
        return path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return path.relative_to(ROOT).parts[0]


def modules() -> dict[str, Path]:
    """Return the path of every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(["rtspecinv", *parts]).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path, *, when_loaded: bool = False) -> set[str]:
    """Return the modules of the package that a file imports, or only those that loading the file imports."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in tree.body if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "rtspecinv"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            base = node.module or ""
            if base.split(".")[0] == "rtspecinv":
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    found.add(inner if inner in MODULES else base)
    return found


def test_imports_follow_the_arrows():
    allowed = arrows()
    sources = [*MODULES.values(), *(path for room in OUTSIDE for path in (ROOT / room).glob("*.py"))]
    for path in sources:
        room = room_of(path)
        assert room in allowed, f"{path} is in no row of docs/architecture.md"
        # "rtspecinv" means the public names.
        used = {[*name.split("."), "rtspecinv"][1] for name in imports(path)}
        strays = used - allowed[room] - {room}
        assert not strays, (
            f"{path} imports {sorted(strays)}, which docs/architecture.md does not allow {room}"
        )


def test_every_folder_imports_only_from_folders_above_it():
    known: set[str] = {"rtspecinv"}
    for room, allowed in arrows().items():
        assert allowed <= known, (
            f"{room} may import {sorted(allowed - known)}, which stand below it or nowhere"
        )
        known.add(room)


def test_no_arrow_is_left_over():
    for room, allowed in arrows().items():
        sources = (ROOT / room).glob("*.py") if room in OUTSIDE else MODULES.values()
        used = {name for path in sources if room_of(path) == room for name in imports(path)}
        rooms = {[*name.split("."), "rtspecinv"][1] for name in used}
        assert allowed <= rooms, f"{room} does not import {sorted(allowed - rooms)}"


def test_modules_import_each_other_in_one_direction():
    state: dict[str, bool] = {}  # False while the search visits the module

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert state.get(name, True), f"a circle of imports: {' -> '.join([*way, name])}"
        if name not in state:
            state[name] = False
            for other in sorted(imports(MODULES[name], when_loaded=True) & MODULES.keys()):
                visit(other, (*way, name))
            state[name] = True

    for name in MODULES:
        visit(name, ())


def test_the_page_names_every_module_once():
    listed = [name for row in rows("Where things are") for name in names(row[0])]
    there = [path.relative_to(PACKAGE).with_suffix("").as_posix() for path in MODULES.values()]
    assert sorted(listed) == sorted(name for name in there if not name.endswith("__init__"))


def test_the_page_names_every_script_of_the_benchmarks_once():
    listed = [name for row in rows("Benchmarks") for name in names(row[0])]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "bench").glob("*.py"))


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
    """Torch's default device and dtype belong to the caller; integers have a dtype without being told."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name)) if name in FACTORIES:
                    given = {keyword.arg for keyword in node.keywords}
                    assert "device" in given, f"{path}:{node.lineno}"
                    assert "dtype" in given or name == "arange", f"{path}:{node.lineno}"
