"""Parts of an embedding table: one Parquet file each, written whole or not at all."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints, provenance
from kdbias.tables.columns import IMAGE, IMAGE_DIGEST, refuse_own
from kdbias.tables.joins import digest_of_ids, shown
from kdbias.tables.parquet_file import parquet_writer, read_provenance, require_whole

STORES = {"float16": pa.float16(), "float32": pa.float32()}
ROW_GROUP = 16_384
_FLOAT32 = np.finfo(np.float32)
# Norms between which a row divides by its norm in float32 with all its digits.
_SAFE = (1e-30, 1e38)
_CHUNK = 1 << 15  # numbers at a time: they stay in the processor's cache
_KEPT = np.int32(~0x70000000)  # all but the copies of the sign that widening an integer makes
_REBIAS = np.float32(2.0**112)  # 127 - 15, the difference of the exponents' biases
_BEYOND = 65536.0  # where float16 ends


def normalise(
    vectors: np.ndarray, ids: pa.Array | None = None, where: str = "embeddings"
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors and the norms they had.

    Args:
        vectors: (n, d) real numbers of any float dtype.
        ids: (n,) sample ids, to name bad rows in the message.
        where: what the vectors belong to, for the message.

    Returns:
        (n, d) float32 unit rows and (n,) float32 norms (the largest or smallest float32 beyond its range).

    Raises:
        KdbiasError: not a 2-D float array, or a row holds NaN/inf or is all zero.
    """
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind != "f":
        raise KdbiasError(
            f"{where}: expected an (n, d) array of floats, got {vectors.dtype} of shape {vectors.shape}"
        )
    with np.errstate(over="ignore"):
        wide = np.ascontiguousarray(vectors, dtype=np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide, dtype=np.float64))
    extreme = np.flatnonzero(~((norms > _SAFE[0]) & (norms < _SAFE[1])))
    if not len(extreme):
        return wide / norms[:, None].astype(np.float32), norms.astype(np.float32)
    # These lose digits or overflow in float32: each is divided by its largest number first.
    rows = vectors[extreme].astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    bad = extreme[~np.isfinite(largest) | (largest == 0)]
    if len(bad):
        names = shown(ids, bad) if ids is not None else ", ".join(map(str, bad[:4]))
        raise KdbiasError(
            f"{where}: {len(bad):,} of {len(wide):,} vectors are zero or not finite ({names}); "
            "remove these samples or mend the teacher's output"
        )
    rows /= largest[:, None]
    lengths = np.linalg.norm(rows, axis=1)
    norms[extreme] = 1
    unit = wide / norms[:, None].astype(np.float32)
    unit[extreme] = rows / lengths[:, None]
    with np.errstate(over="ignore"):
        norms[extreme] = np.clip(largest * lengths, _FLOAT32.smallest_subnormal, _FLOAT32.max)
    return unit, norms.astype(np.float32)


def _list_array(vectors: np.ndarray, store: str) -> pa.FixedSizeListArray:
    """Vectors (n, d) of a type of `STORES` as a column of lists."""
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1), type=STORES[store])
    # Elements declared non-null decode 1.7x faster: Parquet keeps no level for each number.
    element = pa.field("element", STORES[store], nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(element, vectors.shape[1]))


def widen(stored: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Stored vectors (n, d) as float32, in `out` (C-contiguous) where that is given.

    float16 goes through integers, to the bit as `astype` would have it, but five times faster: sign and
    magnitude are shifted to their places in a float32, and a factor mends the exponent.
    """
    if out is None:
        out = np.empty(stored.shape, np.float32)
    if stored.dtype != np.float16:
        out[...] = stored
        return out
    bits, wide = np.ascontiguousarray(stored).reshape(-1).view(np.int16), out.reshape(-1)
    for start in range(0, len(bits), _CHUNK):
        chunk = wide[start : start + _CHUNK]
        shifted = chunk.view(np.int32)
        shifted[...] = bits[start : start + _CHUNK]
        np.left_shift(shifted, 13, out=shifted)
        np.bitwise_and(shifted, _KEPT, out=shifted)
        np.multiply(chunk, _REBIAS, out=chunk)
        if len(chunk) and not (chunk.min() > -_BEYOND and chunk.max() < _BEYOND):  # inf and NaN
            chunk[...] = bits[start : start + _CHUNK].view(np.float16)
    return out


def write_part(
    path: str | os.PathLike[str],
    ids: pa.Array,
    labels: pa.Array | None,
    groups: Mapping[str, pa.Array],
    norms: np.ndarray,
    vectors: np.ndarray,
    provenance_document: dict[str, Any],
    dtype: str = "float16",
    flip: np.ndarray | None = None,
    flip_norms: np.ndarray | None = None,
    facts: np.ndarray | None = None,
    digests: np.ndarray | None = None,
) -> str:
    """Write one part atomically.

    Args:
        ids: (n,) strings.
        labels: (n,) strings with nulls, or None for no labels.
        groups: further columns, (n,) each.
        norms: (n,) float32, L2 norms before normalising.
        vectors: (n, d) unit rows.
        provenance_document: goes into the footer.
        dtype: how vectors are stored, ``float16`` or ``float32``.
        flip: (n, d) unit rows of the mirrored images, stored as ``embedding_flip``.
        flip_norms: (n,) float32, L2 norms of those before normalising, stored as ``norm_flip``.
        facts: (n, 6) float32, what the images look like: the columns `columns.IMAGE`, null for NaN.
        digests: (n,) uint64, of the images' content, 0 where it is not known: `columns.IMAGE_DIGEST`.

    Returns:
        The digest of the content (but for what is known of images), which the footer carries as well.
    """
    if dtype not in STORES:
        raise KdbiasError(f"--store {dtype!r} is unknown; use float16 or float32")
    refuse_own(groups, path)
    plain = {
        "sample_id": ids,
        "label": labels if labels is not None else pa.nulls(len(ids), pa.string()),
        **groups,
    }
    stored = [None if v is None else v.astype(dtype) for v in (vectors, flip)]
    lengths = {"norm": norms} | ({} if flip_norms is None else {"norm_flip": flip_norms})
    views = zip(("embedding", "embedding_flip"), stored, strict=True)
    numbers = {
        **{name: pa.array(values, pa.float32()) for name, values in lengths.items()},
        **{name: _list_array(values, dtype) for name, values in views if values is not None},
        **_of_images(facts, digests),
    }
    content = content_digest(ids, labels, groups, list(lengths.values()), stored)
    doc = {**provenance_document, "content": content, "ids": digest_of_ids(ids)}
    table = provenance.attach(pa.table(plain | numbers), doc)
    # Numbers do not compress and dictionaries only cost: plain pages decode fastest.
    with parquet_writer(
        path,
        table.schema,
        use_dictionary=list(plain),
        compression=dict.fromkeys(plain, "ZSTD") | dict.fromkeys(numbers, "NONE"),
        write_statistics=list(plain),
    ) as writer:
        writer.write_table(table, ROW_GROUP)
    return content


def _of_images(facts: np.ndarray | None, digests: np.ndarray | None) -> dict[str, pa.Array]:
    """The columns that say what images look like, and of their content; facts and digests of `write_part`."""
    found = {}
    if facts is not None:
        kinds = [pa.int32() if fact in ("image_width", "image_height") else pa.float32() for fact in IMAGE]
        known = zip(IMAGE, facts.T, kinds, strict=True)
        found = {fact: pa.array(v, mask=np.isnan(v)).cast(kind) for fact, v, kind in known}
    if digests is not None:
        found[IMAGE_DIGEST] = pa.array(digests, mask=digests == 0)
    return found


def content_digest(
    ids: pa.Array,
    labels: pa.Array | None,
    groups: Mapping[str, pa.Array],
    norms: Sequence[np.ndarray],
    stored: Sequence[np.ndarray | None],
) -> str:
    """Digest of a part's values.

    Args:
        norms: of the vectors and, where there are any, of the mirrored ones.
        stored: (n, d) vectors and mirrored ones (or None) in the type that they are stored in.
    """
    columns = [groups[name] for name in sorted(groups)]
    names = fingerprints.of_json(sorted(groups))
    return fingerprints.of_json([names, fingerprints.of_arrays(ids, labels, *norms, *stored, *columns)])


def is_whole(path: Path, content: str, thorough: bool = False) -> bool:
    """Whether a part is there and says that it has this content.

    Args:
        content: what `content_digest` gave when it was written.
        thorough: read the part, and compare its bytes with its seal.
    """
    try:
        if thorough:
            require_whole(path)
        return (read_provenance(path) or {}).get("content") == content
    except KdbiasError:
        return False
