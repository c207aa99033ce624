"""Pictures: telling samples (most crowded, most isolated, most and least drawn), plots of evaluations."""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.data.access import is_inside, is_uri, join_root
from kdbias.data.opening import read_description
from kdbias.errors import KdbiasError
from kdbias.placing import placed
from kdbias.reporting.outputs import Density, Evaluation
from kdbias.tables.places import bases, candidates
from kdbias.tables.provenance import inputs_in, options_in
from kdbias.wording import counted

if TYPE_CHECKING:
    from PIL import Image

    from kdbias.data.source import Source

_SIDE = 96  # pixels
_IMAGES = 4  # plots of an evaluation
_LARGEST = 4 << 20  # bytes of a plot
_PNG = b"\x89PNG\r\n\x1a\n"
_OPTIONS = ("id_column", "label_column", "path_column", "image_column", "root")


@dataclass(frozen=True)
class Plot:
    """A plot that a stage drew, as a data URI."""

    title: str
    caption: str
    uri: str


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


def open_source(record: Mapping[str, Any], place: Path, roots: Sequence[Path]) -> Source:
    """The data source that an embedding run read, opened by its recorded configuration below a root.

    A record may be somebody else's: a path in it is followed only to what lies, links followed, in a folder
    that the user named, or it could bring any picture of the machine onto the page.

    Args:
        record: of the embedding run.
        place: its folder; where a relative path of the record is not found from the current folder, it is
            looked for from there, from the roots and above, and taken where the data has the recorded
            fingerprint.
        roots: folders that the user named.

    Raises:
        KdbiasError: the record names no data, or the data is not where it was, or below no root.
    """
    data = placed("data", record.get("data"))
    if not isinstance(data, str):
        raise KdbiasError("the embedding table's record names no data")
    root = _options(record)["root"]
    known = inputs_in(record).get("data")
    places: list[tuple[str, str | None]] = [(data, root)]
    if not is_uri(data) and known is not None:
        places += _other_places(data, root, place, roots)
    allowed = [os.path.realpath(path) for path in roots]
    problem = KdbiasError(
        f"the data, recorded as {data}, lies in no folder that you named; name one that holds it with --root"
    )
    as_recorded = None
    for path, here in dict.fromkeys(places):
        if not _stays(path, here, allowed):
            continue
        try:
            found = _open(record, path, here)
        except KdbiasError as error:
            problem = error if (path, here) == places[0] else problem
            continue
        if known is None or found.fingerprint == known:
            return found
        if (path, here) == places[0]:
            as_recorded = found
    if as_recorded is None:
        raise problem
    return as_recorded


def _other_places(
    data: str, root: str | None, place: Path, roots: Sequence[Path]
) -> list[tuple[str, str | None]]:
    """Where data of a known fingerprint is looked for beside its recorded path, each with its root."""
    if root is None:
        below = [found for base in roots for found in candidates(data, base, known=True)]
        return [(str(path), None) for path in (*candidates(data, place, known=True), *below)]
    return [(str(base / data), str(base / root)) for base in bases(place)]


def _stays(data: str, root: str | None, allowed: Sequence[str]) -> bool:
    """Whether everything that this data would read its pictures from lies in one of the real folders."""
    files = [data] if root is None else [data, root]
    if data.endswith(".toml"):
        try:
            description = read_description(data)
            files = [description.data_root(root)]
            source = join_root(files[0], description.source, description.file)
        except KdbiasError:
            return False
        files.append(source)
    return all(_inside(file, allowed) for file in files)


def _inside(file: str, allowed: Sequence[str]) -> bool:
    """Whether a file, or a folder or a pattern with all that is linked there, lies in the real folders."""
    if is_uri(file):
        return False
    if not os.path.exists(file):  # a pattern of files, or nothing
        file = os.path.dirname(file) or "."
    found = ((where, name) for where, below, names in os.walk(file) for name in (*below, *names))
    links = (path for path in itertools.starmap(os.path.join, found) if os.path.islink(path))
    return all(any(is_inside(path, folder) for folder in allowed) for path in (file, *links))


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded options of opening the data."""
    config = options_in(record)
    return {name: record.get(name) or config.get(name) for name in _OPTIONS}


def _open(record: Mapping[str, Any], data: str, root: str | None) -> Source:
    """Data opened with the recorded options but at this place."""
    from kdbias.data.opening import open_data

    where = options_in(record).get("where") or ()
    return open_data(data, where=tuple(where), **{**_options(record), "root": root})


@dataclass(frozen=True)
class Shown:
    """What a strip shows: its title, what it means, and rows of the density table, the likeliest first."""

    title: str
    meaning: str
    rows: np.ndarray
    values: np.ndarray | None  # (n,) weights; None for the log density


def telling(
    log_density: np.ndarray, weights: Mapping[str, np.ndarray], usable: np.ndarray, count: int
) -> list[Shown]:
    """The samples that strips may show, the most telling first.

    Of samples with equal weights the most isolated count as drawn more, the most crowded as drawn less.

    Args:
        log_density: (n,).
        weights: scheme -> (n,), mean 1.
        usable: (m,) rows that may be shown.
        count: of candidates a strip.
    """

    def most(values: np.ndarray, sign: int) -> np.ndarray:
        return usable[np.lexsort((-sign * log_density[usable], sign * values[usable]))[:count]]

    some = f"; out of {min(count, len(usable)):,}, so that not all are alike"

    found = [
        Shown("Most crowded", f"highest density: many near neighbours{some}", most(log_density, -1), None),
        Shown("Most isolated", f"lowest density: little like them nearby{some}", most(log_density, 1), None),
    ]
    for name, w in weights.items():
        if w.max() > w.min():
            found.append(Shown(f"Most drawn by “{name}”", f"drawn most often{some}", most(w, -1), w))
            found.append(Shown(f"Least drawn by “{name}”", f"drawn least often{some}", most(w, 1), w))
    return found


def strip(
    source: Source,
    shown: Shown,
    order: Sequence[int],
    sources: np.ndarray,
    density: Density,
    count: int,
) -> Strip:
    """Up to ``count`` readable pictures of a strip, the most telling first.

    Args:
        order: places in ``shown.rows``, those to be taken first.
        sources: (n,) rows of the source.
    """
    log_density = density.table.numbers("log_density")
    found: dict[int, Thumbnail] = {}
    for place in order:
        if len(found) == count:
            break
        row = int(shown.rows[place])
        picture = _picture(source, int(sources[row]))
        if picture is not None:
            said = f"log density {log_density[row]:.2f}" if shown.values is None else drawn(shown.values[row])
            label, sample = density.table.labels[row].as_py() or "", density.table.ids[row].as_py()
            found[place] = Thumbnail(picture[0], sample, label, said, picture[1])
    return Strip(shown.title, shown.meaning, [found[place] for place in sorted(found)])


def drawn(weight: float) -> str:
    """How often a sample is drawn, in words."""
    return "never drawn" if weight == 0 else f"drawn ×{weight:.2f}"


def read_picture(source: Source, row: int, side: int) -> Image.Image | None:
    """A picture within ``side`` x ``side`` pixels; None for an unreadable image."""
    from PIL import Image

    from kdbias.data.decode import UnreadableImage, decode_image

    try:
        image = Image.fromarray(decode_image(source.read(row), color="RGB", at_least=(side, side)))
    except (UnreadableImage, OSError):
        return None
    if max(image.size) > side:
        image.thumbnail((side, side))
    return image


def _picture(source: Source, row: int) -> tuple[str, bool] | None:
    """A data URI and whether the picture is small; None for an unreadable image."""
    image = read_picture(source, row, _SIDE)
    if image is None:
        return None
    small = max(image.size) <= _SIDE // 2
    buffer = io.BytesIO()
    kind = "PNG" if small else "JPEG"
    image.save(buffer, kind, quality=82)
    return data_uri(kind.lower(), buffer.getvalue()), small


def data_uri(kind: str, content: bytes) -> str:
    """An image's bytes as data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def coded(values: np.ndarray, kind: str) -> str:
    """Numbers as base64 of a little-endian array."""
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def plots(evaluation: Evaluation) -> list[Plot]:
    """The plots that the evaluation drew and that still lie in its folder."""
    document = evaluation.metrics
    images = []
    for name in document.get("plots", [])[:_IMAGES]:
        file = evaluation.path / Path(name).name
        if not file.is_file() or file.stat().st_size > _LARGEST:
            continue
        content = file.read_bytes()
        if not content.startswith(_PNG):
            continue
        units = counted(document["n"], document["unit"])
        caption = f"Drawn by kdbias evaluate: protocol {evaluation.protocol}, {units}."
        title = f"{evaluation.path.name}: {file.stem.replace('_', ' ')}"
        images.append(Plot(title, caption, data_uri("png", content)))
    return images
