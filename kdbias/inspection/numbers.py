"""Describes files of numbers: models of plain weights and NumPy arrays. Nothing in them is executed."""

from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.inspection.values import short


def model(path: Path, rows: int) -> dict[str, Any]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise KdbiasError(f"{path}: not a file of plain weights, and not executed ({reason})") from None
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
    sample = [[short(float(x)) for x in row[:4]] for row in values[:rows]] if values.ndim == 2 else []
    return {"summary": f"array {values.dtype} of shape {values.shape}; it holds no ids", "first_rows": sample}


def arrays(path: Path, rows: int) -> dict[str, Any]:
    with _load_arrays(path) as archive:
        columns = [{"name": k, "type": f"{archive[k].dtype} {archive[k].shape}"} for k in archive.files]
    return {"summary": f"{len(columns)} arrays", "columns": columns}


def _load_arrays(path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise KdbiasError(f"{path}: not a readable NumPy file ({str(error).splitlines()[0]})") from None
