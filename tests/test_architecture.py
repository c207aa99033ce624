"""Data flow one way: a module imports only from floors of its own number or a lower one."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 15
"""Cyclomatic complexity that a function may have."""
PAST = {"training/loop.py fit"}
"""Functions that are allowed more: the training loop tells its story in one place."""


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


def branches(node: ast.AST) -> int:
    """Ways that a piece of code adds, less those of functions and classes that it defines."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return 0
        case ast.Assert():
            return 1
        case ast.If() | ast.IfExp() | ast.match_case():
            own = 1
        case ast.For() | ast.While():
            own = 1 + bool(node.orelse)
        case ast.Try():
            own = len(node.handlers) + bool(node.orelse)
        case ast.BoolOp():
            own = len(node.values) - 1
        case ast.comprehension():
            own = 1 + len(node.ifs)
        case _:
            own = 0
    return own + sum(map(branches, ast.iter_child_nodes(node)))


def test_every_function_can_be_followed():
    past = {}
    for file in [*(ROOT / "kdbias").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (ways := 1 + sum(map(branches, node.body))) > MOST:
                past[f"{'/'.join(file.parts[-2:])} {node.name}"] = ways
    assert not {name: ways for name, ways in past.items() if name not in PAST}


def test_every_file_can_be_read_at_once():
    files = [*(ROOT / "kdbias").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert not {file: lines for file, lines in lengths.items() if lines > 350}
