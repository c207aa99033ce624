"""Small pictures of telling samples: the most crowded, the most isolated, the most and the least drawn."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.data.stores import is_uri
from kdbias.errors import KdbiasError
from kdbias.reporting.places import bases, candidates

if TYPE_CHECKING:
    import pyarrow as pa

    from kdbias.data.source import Source

_SIDE = 96  # pixels
_OPTIONS = ("id_column", "label_column", "path_column", "image_column", "root")


@dataclass(frozen=True)
class Thumbnail:
    """One picture as a data URI, with what to say about it."""

    uri: str
    sample_id: str
    label: str
    value: str
    small: bool  # fewer pixels than it is shown with: enlarge without blurring


@dataclass(frozen=True)
class Strip:
    """A row of pictures with a title and what it means."""

    title: str
    meaning: str
    pictures: Sequence[Thumbnail]


def open_source(record: Mapping[str, Any], place: Path) -> Source:
    """The data source that an embedding run read, opened by its recorded configuration.

    Args:
        record: of the embedding run.
        place: its folder; where a relative path of the record is not found from the current folder, it is
            looked for from there and above, and taken where the data has the recorded fingerprint.

    Raises:
        KdbiasError: the record names no data, or the data is not where it was.
    """
    data = record.get("data")
    if not isinstance(data, str):
        raise KdbiasError("the embedding table's record names no data")
    root = _options(record)["root"]
    try:
        found = _open(record, data, root)
    except KdbiasError as error:
        found, problem = None, error
    known = (record.get("inputs") or {}).get("data")
    if is_uri(data) or known is None or (found is not None and found.fingerprint == known):
        places: list[tuple[Path, str | None]] = []
    elif root is None:
        places = [(path, None) for path in candidates(data, place, known=True)]
    else:
        places = [(base / data, str(base / root)) for base in bases(place)]
    for path, here in places:
        if path.exists():
            with contextlib.suppress(KdbiasError):
                other = _open(record, str(path), here)
                if other.fingerprint == known:
                    return other
    if found is None:
        raise problem
    return found


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded options of opening the data."""
    config = record.get("config") or {}
    return {name: record.get(name) or config.get(name) for name in _OPTIONS}


def _open(record: Mapping[str, Any], data: str, root: str | None) -> Source:
    """Data opened with the recorded options but at this place."""
    from kdbias.data import open_data

    where = (record.get("config") or {}).get("where") or ()
    return open_data(data, where=tuple(where), **{**_options(record), "root": root})


def strips(
    source: Source,
    ids: pa.Array,
    labels: pa.Array,
    log_density: np.ndarray,
    weights: Mapping[str, np.ndarray],
    duplicate: np.ndarray,
    count: int,
) -> list[Strip]:
    """The strips of a density table and its weight schemes.

    Of samples with equal weights the most isolated count as boosted more, the most crowded as boosted less.

    Args:
        source: where pictures come from; must know the ids.
        ids, labels: (n,) of the density table.
        log_density: (n,).
        weights: scheme -> (n,), mean 1.
        duplicate: (n,) True where an earlier sample has the same vector; shown once only.
        count: pictures a strip.
    """
    from kdbias.tables.joins import align

    rows = align(ids, source.ids, "the density table", "its data", allow_missing=True)
    usable = np.flatnonzero((rows >= 0) & ~duplicate)
    if not len(usable):
        raise KdbiasError("the data holds none of the density table's ids")

    def strip(title: str, meaning: str, values: np.ndarray, descending: bool, text: str) -> Strip:
        sign = -1 if descending else 1
        order = np.lexsort((-sign * log_density[usable], sign * values[usable]))
        pictures: list[Thumbnail] = []
        for i in usable[order]:
            if len(pictures) == count:
                break
            picture = _picture(source, int(rows[i]))
            if picture is not None:
                never = values is not log_density and values[i] == 0
                said = "never drawn" if never else text.format(values[i])
                pictures.append(
                    Thumbnail(picture[0], ids[int(i)].as_py(), labels[int(i)].as_py() or "", said, picture[1])
                )
        return Strip(title, meaning, pictures)

    found = [
        strip(
            "Most crowded", "highest density: many near neighbours", log_density, True, "log density {:.2f}"
        ),
        strip(
            "Most isolated",
            "lowest density: little like them nearby",
            log_density,
            False,
            "log density {:.2f}",
        ),
    ]
    for name, w in weights.items():
        if w.max() > w.min():
            found.append(strip(f"Most boosted by {name}", "drawn most often", w, True, "drawn ×{:.2f}"))
            found.append(strip(f"Least boosted by {name}", "drawn least often", w, False, "drawn ×{:.2f}"))
    return found


def _picture(source: Source, row: int) -> tuple[str, bool] | None:
    """A data URI and whether the picture is small; None for an unreadable image."""
    from PIL import Image

    from kdbias.data.decode import UnreadableImage, decode_image

    try:
        image = Image.fromarray(decode_image(source.read(row), color="RGB"))
    except (UnreadableImage, OSError):
        return None
    small = max(image.size) <= _SIDE // 2
    if max(image.size) > _SIDE:
        image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    kind = "PNG" if small else "JPEG"
    image.save(buffer, kind, quality=82)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}", small
