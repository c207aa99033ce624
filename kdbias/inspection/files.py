"""Describes files that are no tables: arrays, models, networks, images, documents, pages, scripts.

Nothing in them is executed. A describer takes the path and how many rows to show, and returns JSON values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbias.data.arrays import DAMAGED
from kdbias.errors import KdbiasError, first_line
from kdbias.inspection.recognition import is_page
from kdbias.tables.documents import read_document, read_json
from kdbias.wording import counted, cut

_HEAD = 4096  # bytes that are read to tell what a text is
_TEXT = 60
_DEMO = {"seeds": int, "students": [object], "schemes": [{"scheme": str}]}


def short(value: Any) -> Any:
    """A value small enough to show, as JSON."""
    if isinstance(value, bytes):
        return f"<{counted(len(value), 'byte')}>"
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        few = ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value[:3])
        return list(map(short, value)) if len(value) <= 3 else f"[{few}, … {len(value):,} values]"
    if isinstance(value, float):
        return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else str(value)
    return value if isinstance(value, int) or value is None else cut(str(value), _TEXT)


def model(path: Path, rows: int) -> dict[str, Any]:
    """A ``.pt`` file of plain weights: each tensor's name, type and shape, and the facts beside them."""
    from kdbias.networks.saved import read_plain

    content = read_plain(path)
    tensors: list[tuple[str, Any]] = []
    facts: dict[str, Any] = {}
    _walk(content, "", tensors, facts)
    size = sum(t.numel() for _, t in tensors)
    return {
        "summary": f"{counted(len(tensors), 'tensor')}, {counted(size, 'number')}",
        "facts": facts,
        "columns": [{"name": name, "type": f"{str(t.dtype)[6:]} {tuple(t.shape)}"} for name, t in tensors],
    }


def _walk(value: Any, name: str, tensors: list[tuple[str, Any]], facts: dict[str, Any]) -> None:
    """Gather the tensors of a nested value by their names, and its other values as facts."""
    if hasattr(value, "numel"):
        tensors.append((name, value))
    elif isinstance(value, dict):
        for key, item in value.items():
            _walk(item, f"{name}.{key}" if name else str(key), tensors, facts)
    elif isinstance(value, list | tuple) and any(hasattr(v, "numel") or isinstance(v, dict) for v in value):
        for i, item in enumerate(value):
            _walk(item, f"{name}[{i}]", tensors, facts)
    else:
        facts[name] = short(value)


def array(path: Path, rows: int) -> dict[str, Any]:
    """A ``.npy`` file: type, shape and, of a matrix, the first four numbers of its first rows."""
    values = _load_arrays(path)
    sample = [[short(x) for x in row[:4].tolist()] for row in values[:rows]] if values.ndim == 2 else []
    return {"summary": f"array {values.dtype} of shape {values.shape}; it holds no ids", "first_rows": sample}


def arrays(path: Path, rows: int) -> dict[str, Any]:
    """A ``.npz`` file: each array's type and shape."""
    with _load_arrays(path) as archive:
        columns = [{"name": k, "type": _type_of(archive, k)} for k in archive.files]
    return {"summary": counted(len(columns), "array"), "columns": columns}


def _type_of(archive: Any, name: str) -> str:
    """Type and shape of an array in an archive; one of Python objects is not unpickled."""
    try:
        values = archive[name]
    except DAMAGED as error:
        return f"not read ({first_line(error)})"
    return f"{values.dtype} {values.shape}"


def _load_arrays(path: Path) -> Any:
    """A NumPy file's array (.npy, mapped) or arrays (.npz)."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
    except DAMAGED as error:
        raise KdbiasError(f"{path}: not a readable NumPy file ({first_line(error)})") from None


def network(path: Path, rows: int) -> dict[str, Any]:
    """A network in another program's format; it is not loaded."""
    kind = path.suffix.lower()[1:]
    if kind == "xml" and "<net" not in _head(path):
        raise KdbiasError(f"{path} is XML, but no OpenVINO network (no <net> in it)")
    name, spec = ("ONNX", "onnx") if kind == "onnx" else ("OpenVINO", "openvino")
    size = path.stat().st_size
    side_car = path.with_suffix(".toml")
    side = f"preprocessing in {side_car.name}" if side_car.exists() else "no preprocessing file beside it"
    return {
        "summary": f"{name} network of {size:,} bytes, not loaded; {side}; as a teacher: {spec}:{path}",
    }


def image(path: Path, rows: int) -> dict[str, Any]:
    """An image file: format, size in pixels, mode."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            width, height = opened.size
            return {"summary": f"one {opened.format} image of {width} x {height} pixels, mode {opened.mode}"}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = first_line(error)
        raise KdbiasError(f"{path}: not a readable image ({reason})") from None


def page(path: Path, rows: int) -> dict[str, Any]:
    """A page of ``kdbias report``; refuses any other."""
    if not is_page(path):
        raise KdbiasError(f"{path} is a page that kdbias did not write")
    size = path.stat().st_size
    return {"summary": f"page of kdbias report, {size / 2**20:.1f} MiB; open it in a browser"}


def commands(path: Path, rows: int) -> dict[str, Any]:
    """A shell script that calls kdbias; refuses any other."""
    lines = [line for line in _head(path).splitlines() if line.lstrip().startswith("kdbias ")]
    if not lines:
        raise KdbiasError(f"{path} is a script that calls no kdbias command")
    return {"summary": f"shell script of kdbias commands, the first: {lines[0].strip()[:80]}"}


def _head(path: Path) -> str:
    """The beginning of a file as text."""
    with open(path, "rb") as file:
        return file.read(_HEAD).decode("utf-8", "replace")


def json_document(path: Path, rows: int) -> dict[str, Any]:
    """Any JSON file, whole."""
    content = read_json(path)
    keys = ", ".join(content) if isinstance(content, dict) else counted(len(content), "entry")
    return {"summary": f"JSON: {keys}", "content": content}


def demo_results(path: Path, rows: int) -> dict[str, Any]:
    """What ``kdbias demo`` found, whole."""
    content = read_document(path, _DEMO)
    schemes = ", ".join(entry["scheme"] for entry in content["schemes"])
    students = counted(len(content["students"]), "student")
    summary = f"what kdbias demo found: {students} over {counted(content['seeds'], 'seed')}"
    return {"summary": f"{summary}; schemes: {schemes}", "content": content}
