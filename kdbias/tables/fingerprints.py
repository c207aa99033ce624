"""Short digests that tell whether two inputs are the same."""

import hashlib
import json
import os
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.tables.files import refuse_special

_LENGTH = 16  # bytes


def of_file(path: str | os.PathLike[str]) -> str:
    """BLAKE2b of a file's bytes, 32 hex digits."""
    refuse_special(path)
    with open(path, "rb") as handle:
        return of_stream(handle)


def of_stream(handle: Any) -> str:
    """`of_file` of a file that is open for reading its bytes."""
    return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=_LENGTH)).hexdigest()


def of_json(obj: Any) -> str:
    """Digest of a JSON document, whatever the order of its keys."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=_LENGTH).hexdigest()


def of_table(table: pa.Table, apart: Collection[str] = ()) -> str:
    """Digest of a table's names and values, less columns ``apart``; who wrote it and when does not count."""
    names = [name for name in table.column_names if name not in apart]
    return of_json([[name, of_arrays(table.column(name))] for name in names])


def of_arrays(*arrays: np.ndarray | pa.Array | pa.ChunkedArray | None) -> str:
    """Digest of the values of arrays; Arrow arrays count by value, not by how they are chunked."""
    digest = hashlib.blake2b(digest_size=_LENGTH)
    for array in arrays:
        if array is None:
            digest.update(b"none;")
        elif isinstance(array, np.ndarray):
            digest.update(f"{array.dtype.str}{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        else:
            _update_with_arrow(digest, array)
    return digest.hexdigest()


def _update_with_arrow(digest: hashlib.blake2b, array: pa.Array | pa.ChunkedArray) -> None:
    """Take in an Arrow array: type, length, nulls and values, a million rows at a time."""
    digest.update(f"{array.type}[{len(array)}];".encode())
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if isinstance(whole, pa.ChunkedArray):  # more than one array can hold
        whole = pa.concat_arrays(whole.chunks)
    step = 1 << 20
    for start in range(0, len(whole), step):
        # A concatenation of one slice starts at offset 0, so its buffers hold these values alone.
        piece = _plain(pa.concat_arrays([whole.slice(start, step)]))
        digest.update(np.packbits(piece.is_null().to_numpy(zero_copy_only=False)).tobytes())
        for buffer in _cleared(piece).buffers()[1:]:
            if buffer is not None:
                digest.update(buffer)


def _plain(piece: pa.Array) -> pa.Array:
    """The same values in a type whose buffers hold them by value, one after another."""
    if isinstance(piece, pa.ExtensionArray):
        piece = piece.storage
    if pa.types.is_dictionary(piece.type):
        piece = piece.dictionary_decode()
    if pa.types.is_boolean(piece.type):  # bits beyond the last value are anything
        return piece.cast(pa.uint8())
    contiguous = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}.get(str(piece.type))
    return piece if contiguous is None else piece.cast(contiguous)


def _cleared(piece: pa.Array) -> pa.Array:
    """The values without what stands behind a null, which may be anything."""
    kind = piece.type
    if not piece.null_count:
        return piece
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return piece.fill_null("")
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        width = kind.bit_width // 8
        return piece.view(pa.binary(width)).fill_null(bytes(width))
    return piece.drop_null()
