"""Data flow one way: a module imports only from floors of its own number or a lower one."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def floors() -> dict[str, int]:
    """Name of a folder or module of the library -> its floor, as docs/architecture.md lists them."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", table, re.MULTILINE)
    return {name: int(floor) for floor, homes in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", homes)}


def test_no_module_imports_from_a_higher_floor():
    floor, wrong = floors(), []
    for file in sorted((ROOT / "kdbias").rglob("*.py")):
        name = file.relative_to(ROOT / "kdbias")
        home = name.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            source = module.removeprefix("kdbias.").partition(".")[0]
            if module.startswith("kdbias.") and floor.get(source, 0) > floor.get(home, 99):
                wrong.append(f"{name} imports {module}")
    assert not wrong


def test_every_folder_of_the_library_has_a_floor():
    folders = {file.parent.name for file in (ROOT / "kdbias").glob("*/__init__.py")}
    assert folders <= floors().keys()


def test_every_folder_of_the_library_is_installed():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "kdbias").rglob("__init__.py")}
    assert {".".join(folder.parts) for folder in folders} | about["package-dir"].keys() == set(
        about["packages"]
    )
