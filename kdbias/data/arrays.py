"""Images as arrays in one ``.npz`` file, as small public sets are often passed around."""

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.access import digest_of
from kdbias.data.decode import UnreadableImage
from kdbias.data.settings import Options
from kdbias.data.sharded import Sharded
from kdbias.data.source import Source, make_source, numbered_parts, repeated
from kdbias.errors import KdbiasError, first_line
from kdbias.tables.joins import as_strings

_OF_ZIP = (zipfile.BadZipFile, zlib.error, struct.error)
DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, *_OF_ZIP)
"""What reading a damaged archive raises."""


class ArrayImages(Sharded[np.ndarray]):
    """Rows of uint8 arrays of an ``.npz`` file, loaded by each process on first use.

    Args:
        file: path of the ``.npz``.
        keys: names of arrays of shape (n, height, width[, channels]), one after another.
        lengths: their n.
    """

    survives_fork = True

    def __init__(self, file: str, keys: Sequence[str], lengths: Sequence[int]) -> None:
        super().__init__(lengths, keys)
        self.file = file

    def _open(self, number: int) -> np.ndarray:
        try:
            with np.load(self.file, allow_pickle=False) as archive:
                return archive[self.names[number]]
        except DAMAGED as error:
            raise UnreadableImage(f"cannot read {self.file}: {first_line(error)}") from None

    def read(self, row: int) -> np.ndarray:
        """Image of a row as stored: uint8 (height, width[, channels])."""
        part, at = self.place(row)
        return self.opened(part)[at]

    def location(self, row: int) -> str:
        """FILE[ARRAY][PLACE] of a row."""
        part, at = self.place(row)
        return f"{os.path.basename(self.file)}[{self.names[part]}][{at}]"


def open_arrays(data: str, options: Options) -> Source:
    """Open an ``.npz`` whose arrays a description names.

    Each entry of ``options.arrays`` has "images" (key of a uint8 array), optionally "labels" (key of an
    integer or text array of the same length); its other entries become groups. Ids are "<images key>/<row>".
    The fingerprint covers the content of the file.

    Raises:
        KdbiasError: no entries, keys that are missing, arrays of the wrong type or length, pickled content.
    """
    if not options.arrays:
        raise KdbiasError(
            f"{data}: an .npz needs a .toml description with [[arrays]] that names its images and labels"
        )
    keys = [part.get("images", "") for part in options.arrays]
    try:
        with np.load(data, allow_pickle=False) as archive:
            lengths, labels = zip(*(_part(data, archive, part) for part in options.arrays), strict=True)
    except KdbiasError:
        raise
    except DAMAGED as error:
        raise KdbiasError(f"{data}: not a plain .npz file ({first_line(error)})") from None
    said = dict.fromkeys(name for part in options.arrays for name in part)
    return make_source(
        "arrays",
        data,
        options,
        numbered_parts([f"{key}/" for key in keys], lengths, 6),
        ArrayImages(os.path.abspath(data), keys, lengths),
        [
            digest_of(data),
            [dict(part) for part in options.arrays],
            list(options.label_names or ()),
            *replace(options, label_names=None).naming,
        ],
        labels=pa.concat_arrays(labels) if "labels" in said else None,
        groups={
            n: repeated([part.get(n) for part in options.arrays], lengths) for n in said if n not in _KEYS
        },
    )


_KEYS = ("images", "labels")


def _part(data: str, archive: Any, part: Mapping[str, str]) -> tuple[int, pa.Array]:
    """How many images a part has, and their labels as text."""
    for role in _KEYS:
        if (role == "images" or role in part) and part.get(role) not in archive.files:
            raise KdbiasError(
                f"{data}: no array {part.get(role)!r} for {role}; it has {', '.join(archive.files)}"
            )
    images = archive[part["images"]]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise KdbiasError(
            f"{data}: array {part['images']!r} is {images.dtype} {images.shape}; images are uint8 "
            "(n, height, width[, channels])"
        )
    if "labels" not in part:
        return len(images), pa.nulls(len(images), pa.large_string())
    labels = archive[part["labels"]].reshape(-1)
    if len(labels) != len(images) or labels.dtype.kind not in "iuUb":
        raise KdbiasError(
            f"{data}: array {part['labels']!r} is {labels.dtype} of length {len(labels)}; labels are "
            f"integers or text, one for each of the {len(images)} images"
        )
    return len(images), as_strings(labels.astype(np.int64) if labels.dtype.kind == "b" else labels)
