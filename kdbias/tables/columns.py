"""Columns: names that are kdbias's own, and plain values, in types that every stage can compare and count."""

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.tables.joins import as_strings, encode

EMBEDDING = ("sample_id", "label", "norm", "norm_flip", "embedding", "embedding_flip")
IMAGE = tuple(
    f"image_{fact}" for fact in ("width", "height", "brightness", "darkest", "brightest", "contrast")
)  # of an embedding table whose images were seen; see `kdbias.data.image_facts`
IMAGE_DIGEST = "image_digest"  # uint64 of the file's bytes or the pixels, by which a changed image is known
DENSITY = ("sample_id", "label", "knn_distance", "log_density", "duplicate_of", "near_duplicates")
SUSPECT = ("suspect", "near_duplicate_of", "nearest_label")  # of a density table; see `measurement.suspects`
WITNESS = "witness"  # of a density table that has a target
MANIFEST = ("sample_id", "label", "log_density", "weight")
POTENTIAL = "potential_t"
_OWN = frozenset([*EMBEDDING, *IMAGE, IMAGE_DIGEST, *DENSITY, *SUSPECT, WITNESS, *MANIFEST])

NO_VALUE = (
    "",
    "nan",
    "NaN",
    "NAN",
    "-nan",
    "NaT",
    "NULL",
    "null",
    "Null",
    "None",
    "NA",
    "N/A",
    "n/a",
    "<NA>",
    "#N/A",
)
"""Texts that stand for a missing value: what pandas, R, databases and spreadsheets write for one."""


def is_own(name: str) -> bool:
    """Whether one of the tables has a column of this name, or may have (one a bandwidth)."""
    return name in _OWN or name.startswith(POTENTIAL)


def refuse_own(groups: Iterable[str], where: object) -> None:
    """Raise KdbiasError where a group column would be taken for one of kdbias's own, here or further on."""
    taken = [name for name in groups if is_own(name)]
    if taken:
        raise KdbiasError(
            f"{where}: the group column {taken[0]!r} bears the name of a column of kdbias's own tables; "
            f"rename it (kdbias embed keeps such a one as 'data_{taken[0]}')"
        )


def refuse_repeated(names: Sequence[str], where: object) -> None:
    """Refuse columns of which two have one name."""
    if len(set(names)) != len(names):
        raise KdbiasError(f"{where}: column names occur twice ({', '.join(names)})")


def without_missing(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column of plain values with null for what says that there is none: NaN, and texts of NO_VALUE."""
    kind = plain_type(values.type)
    if kind is not None and pa.types.is_floating(kind):
        values = values.cast(kind)
        return pc.if_else(pc.is_nan(values), None, values)
    if kind is not None and pa.types.is_large_string(kind):
        values = as_strings(values)
        none = pc.is_in(values, value_set=pa.array(NO_VALUE, pa.large_string()))
        return pc.if_else(none, None, values) if pc.any(none).as_py() else values
    return values


def as_names(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Ids or labels as one large_string array, null where there is none.

    Whole floats, as pandas makes integers beside a missing value, are named as the integers: "7", not "7.0".
    """
    values = without_missing(values)
    if pa.types.is_floating(values.type):
        with contextlib.suppress(pa.ArrowInvalid):  # some are not whole
            values = values.cast(pa.float64()).cast(pa.int64())
    return as_strings(values)


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """The type that a column of this type is kept in; None for bytes, lists and structs.

    Dictionaries and extensions are kept as what they stand for, a column of nothing as missing texts.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind) or is_bytes(kind):
        return None
    texts = ("null", "string", "large_string", "string_view")
    return pa.large_string() if str(kind) in texts else kind


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes of any length, however Arrow keeps them."""
    return str(kind) in ("binary", "large_binary", "binary_view")


def encode_parts(parts: Iterable[pa.Array]) -> tuple[np.ndarray, pa.Array]:
    """As of `joins.encode`, of a column (n,) large_string that comes in parts, twice."""
    names = pa.concat_arrays([pa.array([], pa.large_string()), *(pc.unique(part) for part in parts)])
    names = pc.unique(names.drop_null())
    names = names.take(pc.sort_indices(names))
    return np.concatenate([encode(part, names)[0] for part in parts]), names


def require_plain(table: pa.Table, where: object, names: Iterable[str]) -> None:
    """Refuse those of the columns that hold bytes, lists or structs."""
    for name in names:
        kind = table.schema.field(name).type
        if plain_type(kind) is None:
            raise KdbiasError(f"{where}: the column {name} holds {kind}, not one plain value a sample")


def require_numbers(table: pa.Table, where: object, names: Iterable[str]) -> None:
    """Refuse those of the columns that hold anything but integers, floats and nulls."""
    for name in names:
        kind = table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise KdbiasError(f"{where}: the column {name} holds {kind}, not numbers")


def as_plain(values: pa.Array | pa.ChunkedArray, name: str, where: object) -> pa.Array:
    """A column as one array of its plain type.

    Args:
        name, where: of the column, for the message.

    Raises:
        KdbiasError: it holds bytes, lists or structs.
    """
    kind = plain_type(values.type)
    if kind is None:
        raise KdbiasError(
            f"{where}: the group column {name!r} holds {values.type}, not one plain value a sample; "
            "leave it out"
        )
    if pa.types.is_large_string(kind):
        return as_strings(values)
    values = values.cast(kind)
    return pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
