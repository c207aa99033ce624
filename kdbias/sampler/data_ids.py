"""What users give as the ids of a data set, or as its weights, as one array."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.tables.joins import as_strings

_WANTED = (
    "give the id or path of each sample, in the data set's order: a list or column of texts or paths, an "
    "ImageFolder or its .samples, or of a table the column that holds them, as table['sample_id']"
)


def ids_of(data: Any) -> pa.Array:
    """The id or path of each position of a data set.

    Args:
        data: ids (texts, whole numbers, `Path` objects) as a list, a NumPy, pandas or Arrow column; pairs
            whose first entry is one, as `ImageFolder.samples`; a data set of torchvision that has these, or
            parts of such (`Subset`, `ConcatDataset`).

    Returns:
        (n,) large_string.

    Raises:
        KdbiasError: anything else.
    """
    if getattr(data, "indices", None) is not None and hasattr(data, "dataset"):
        return ids_of(data.dataset).take(pa.array(np.asarray(data.indices, np.int64)))
    if isinstance(getattr(data, "datasets", None), list):
        return pa.concat_arrays([ids_of(part) for part in data.datasets])
    if isinstance(data, pa.Array | pa.ChunkedArray):
        return as_strings(data)
    data = getattr(data, "samples", data)
    if not _is_column(data):
        raise KdbiasError(f"sample_ids are one {type(data).__name__}; {_WANTED}")
    try:
        typed = str(getattr(data, "dtype", "object")) != "object"
        return as_strings(data if typed else _plain(list(data)))
    except (pa.ArrowException, TypeError, ValueError):
        shape = getattr(data, "shape", None)
        held = f"of shape {shape}" if shape else f"of such as {next(iter(data), None)!r}"
        raise KdbiasError(f"sample_ids are a {type(data).__name__} {held}; {_WANTED}") from None


def _is_column(data: Any) -> bool:
    """Whether it may be one value a sample, in an order."""
    if isinstance(data, str | bytes | os.PathLike | dict | set | frozenset):
        return False
    is_table = hasattr(data, "columns") or hasattr(data, "column_names")
    return isinstance(data, Iterable) and not is_table


def _plain(values: list[Any]) -> list[Any]:
    """Texts of paths, and of the first entries of pairs; anything else as it is."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, tuple | list) and first and isinstance(first[0], str | os.PathLike):
        values = [value[0] for value in values]
        first = first[0]
    return [os.fspath(value) for value in values] if isinstance(first, os.PathLike) else values


def weights_of(values: Any) -> np.ndarray:
    """The weight of each position of a data set, (n,) float64; refuses what is no column of numbers."""
    if isinstance(values, str | os.PathLike):
        raise KdbiasError(
            f"weights are {os.fspath(values)!r}, but should be one number a sample: a file of weights is "
            "read by from_manifest(path, sample_ids)"
        )
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise KdbiasError(
            f"weights are a {type(values).__name__}, but should be one number a sample ({error})"
        ) from None
    if array.ndim != 1:
        raise KdbiasError(f"weights are of shape {array.shape}, but should be one number a sample: (n,)")
    return array
