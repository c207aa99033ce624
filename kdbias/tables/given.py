"""What comes from elsewhere: vectors, ids and labels of other tools, and files that are something else."""

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.errors import KdbiasError, first_line
from kdbias.tables.columns import plain_type

VECTORS = ("embedding", "embeddings", "vector", "vectors", "features", "feature")
IDS = ("sample_id", "ids", "id", "sample_ids", "image_path", "path", "paths", "filename", "filenames", "key")
LABELS = ("label", "labels", "target", "targets", "y", "classes", "class", "pid", "pids", "identity")
"""Names of arrays and columns that other tools give, the surest first."""

# How files begin, by which they are told apart: nothing of them is run or unpacked.
_STARTS = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow (Feather) file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"FEA1", "a Feather file (version 1)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PK\x03\x04", "a ZIP archive (.npz, .xlsx)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "a SQLite database"),
    (b"Obj\x01", "an Avro file"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"{", "a JSON document"),
    (b"[", "a JSON document"),
)
_CONTROLS = dict.fromkeys(map(ord, "\r\n\t"))
_WAYS_OUT = {
    "a Parquet file": "name it .parquet",
    "a gzip file": "unpack it",
    "a Zstandard file": "unpack it",
    "a text file": "name it .csv if it is one",
}
_OUT_OF_PANDAS = "write it with pandas' to_parquet, or as .csv"


def vector_column(schema: pa.Schema) -> str | None:
    """The column of vectors: by its usual name, else the only one of lists of floats."""
    lists = [field.name for field in schema if float_type(field.type) is not None]
    usual = next((name for name in VECTORS if name in lists), None)
    return usual or (lists[0] if len(lists) == 1 else None)


def id_column_of(schema: pa.Schema, named: str | None = None) -> str | None:
    """The column of ids: the one that is named, else by its usual name."""
    plain = [field.name for field in schema if plain_type(field.type) is not None]
    return next((name for name in (named, *IDS) if name in plain), None)


def float_type(kind: pa.DataType) -> pa.DataType | None:
    """The type of the floats in a column of lists or of one-dimensional tensors, else None."""
    if isinstance(kind, pa.BaseExtensionType):
        return None if len(getattr(kind, "shape", (0,))) > 1 else float_type(kind.storage_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return kind.value_type if is_list and pa.types.is_floating(kind.value_type) else None


def command_for(path: str | os.PathLike[str]) -> str | None:
    """The command that makes an embedding table of the vectors at a path; None where there are none."""
    place = Path(path)
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    kind = files[0].suffix.lower() if files and files[0].is_file() else ""
    data, named = shlex.quote(str(place)), f"precomputed:{place}"
    out = shlex.quote(f"{place.with_suffix('')}-embeddings")
    if kind in (".npy", ".npz"):
        order = "" if kind == ".npz" else " --same-order"
        return f"kdbias embed DATA -o {out} --teacher {shlex.quote(named)}{order}"
    try:
        schema = pq.read_schema(files[0]) if kind == ".parquet" else pa.schema([])
    except (pa.ArrowException, OSError):
        return None
    if vector_column(schema) is None:
        return None
    order = "" if id_column_of(schema) else " --same-order"
    return f"kdbias embed {data} -o {out} --teacher {shlex.quote(named)}{order}"


def as_column(values: Any, name: str) -> pa.Array | pa.ChunkedArray:
    """(n,) values as an Arrow array, null for NaN and None.

    Args:
        values: an Arrow or NumPy array, a pandas Series, a tensor, or any sequence.

    Raises:
        KdbiasError: values of several kinds, or more than one dimension.
    """
    try:
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            values = _array_of(values)
            values = pa.array(values if hasattr(values, "dtype") else list(values), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise KdbiasError(f"{name}: not one plain value a sample ({first_line(error)})") from None
    if plain_type(values.type) is None:
        raise KdbiasError(f"{name} holds {values.type}, not one plain value a sample")
    return values


def as_matrix(values: Any, name: str) -> np.ndarray:
    """Vectors as one array, for whoever checks that it is (n, d) floats.

    Args:
        values: an array or tensor, a list of rows, a pandas Series or an Arrow column of them, a data frame.

    Raises:
        KdbiasError: vectors of different lengths, or no numbers.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        if isinstance(values.type, pa.BaseExtensionType):
            values = values.cast(values.type.storage_type)
        values = values.to_pandas()
    values = _array_of(values)
    try:
        matrix = np.asarray(values)
        if matrix.dtype == object:
            matrix = np.stack([np.asarray(row) for row in matrix])
    except (TypeError, ValueError) as error:
        raise KdbiasError(f"{name}: not all of one length, as vectors are ({first_line(error)})") from None
    whole = matrix.dtype.kind in "iu" and not hasattr(values, "dtype")  # numbers as people type them
    return matrix.astype(np.float64) if whole else matrix


def _array_of(values: Any) -> Any:
    """A torch tensor, wherever it lies, as an array; anything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def format_of(head: bytes) -> str | None:
    """What a file with these first bytes is, in words; None where they say nothing."""
    found = next((what for start, what in _STARTS if head.startswith(start)), None)
    if found is not None or not head:
        return found
    lines = head[: head.rfind(b"\n") + 1]
    try:
        return (
            "a text file" if lines.decode("utf-8-sig").translate(_CONTROLS).isprintable() and lines else None
        )
    except UnicodeDecodeError:
        return None


def mistaken(path: str | os.PathLike[str], wanted: str) -> str | None:
    """One sentence on a file that is something else than it should be ("Parquet", "CSV"), else None."""
    try:
        with pa.OSFile(os.fspath(path)) as handle:
            head = handle.read(4096)
    except (OSError, pa.ArrowException):
        return None
    found = format_of(head)
    if found is None or wanted in found:
        return None
    return f"{path}: {found}, not a {wanted} file; {_WAYS_OUT.get(found, _OUT_OF_PANDAS)}"
