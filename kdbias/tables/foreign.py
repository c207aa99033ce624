"""What a file is that should be another: told by its first bytes, nothing of it is run or unpacked."""

import os

import pyarrow as pa

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
