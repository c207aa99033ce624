"""Describes files of numbers: models of plain weights and NumPy arrays. Nothing in them is executed."""

from pathlib import Path
from typing import Any

from kdbias.data.arrays import DAMAGED
from kdbias.errors import KdbiasError, first_line
from kdbias.inspection.values import short


def model(path: Path, rows: int) -> dict[str, Any]:
    from kdbias.networks.saved import read_plain

    content = read_plain(path)
    tensors: list[tuple[str, Any]] = []
    facts: dict[str, Any] = {}
    _walk(content, "", tensors, facts)
    size = sum(t.numel() for _, t in tensors)
    return {
        "summary": f"{len(tensors)} tensors, {size:,} numbers",
        "facts": facts,
        "columns": [{"name": name, "type": f"{str(t.dtype)[6:]} {tuple(t.shape)}"} for name, t in tensors],
    }


def _walk(value: Any, name: str, tensors: list[tuple[str, Any]], facts: dict[str, Any]) -> None:
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
    values = _load_arrays(path)
    sample = [[short(x) for x in row[:4].tolist()] for row in values[:rows]] if values.ndim == 2 else []
    return {"summary": f"array {values.dtype} of shape {values.shape}; it holds no ids", "first_rows": sample}


def arrays(path: Path, rows: int) -> dict[str, Any]:
    with _load_arrays(path) as archive:
        columns = [{"name": k, "type": _type(archive, k)} for k in archive.files]
    return {"summary": f"{len(columns)} arrays", "columns": columns}


def _type(archive: Any, name: str) -> str:
    """Type and shape of an array in an archive; one of Python objects is not unpickled."""
    try:
        values = archive[name]
    except DAMAGED as error:
        return f"not read ({first_line(error)})"
    return f"{values.dtype} {values.shape}"


def _load_arrays(path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
    except DAMAGED as error:
        raise KdbiasError(f"{path}: not a readable NumPy file ({first_line(error)})") from None
