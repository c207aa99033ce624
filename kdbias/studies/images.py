"""The images of a study's data set at the student's size, in one file that every run reads."""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.decode import UnreadableImage
from kdbias.data.source import Source
from kdbias.demonstration.digits import near_duplicate
from kdbias.errors import KdbiasError
from kdbias.progress import say
from kdbias.studies.biases import Copies
from kdbias.studies.draws import require_enough
from kdbias.studies.samples import COPY, PART, TRAIN, texts
from kdbias.tables.parquet_file import parquet_writer, read_table
from kdbias.wording import counted

if TYPE_CHECKING:
    from kdbias.teachers.preprocessing import Preprocessing

_GROUP_ROWS = 1000


def seconds_an_image(source: Source, size: str | int, images: int = 16) -> float:
    """How long reading and shrinking one image takes here: of a few, spread over the data."""
    shrink, read = _shrinking(size), 0
    began = time.perf_counter()
    for row in range(0, source.n, max(1, source.n // images)):
        with contextlib.suppress(UnreadableImage):
            png(shrink.apply(shrink.decode(source.read(row))))
            read += 1
    if not read:
        raise KdbiasError(f"{source.origin}: none of its images can be read")
    return (time.perf_counter() - began) / read


def write_images(
    path: Path, source: Source, part: np.ndarray, size: str | int, copies: Copies | None = None
) -> None:
    """The images at the student's size as PNG, so that no run decodes and shrinks them again; copies last.

    Those that cannot be read are left out, and said.

    Raises:
        KdbiasError: none can be read.
    """
    if path.exists():
        return
    shrink = _shrinking(size)
    rows = np.flatnonzero(part != "")
    numbers = np.zeros(len(rows), int)  # of a copy, from 1
    if copies is not None:
        rows, numbers = _with_copies(rows, numbers, part, copies)
    kept = source.select(rows)
    columns: dict[str, Any] = {"sample_id": _numbered(kept.ids, numbers)}
    if kept.labels is not None:
        columns["label"] = kept.labels
    own = np.where(numbers > 0, COPY, part[rows])
    plain = pa.table(columns | kept.groups | {PART: texts(own)})
    schema = plain.schema.append(pa.field("image", pa.binary()))
    failed: list[str] = []
    with parquet_writer(path, schema) as writer:
        for start in range(0, kept.n, _GROUP_ROWS):
            block = plain.slice(start, _GROUP_ROWS)
            images: list[bytes | None] = []
            for row in range(start, start + block.num_rows):
                try:
                    pixels = shrink.apply(shrink.decode(kept.read(row)))
                except UnreadableImage as error:
                    failed.append(f"{kept.ids[row].as_py()} ({error.reason})")
                    images.append(None)
                    continue
                if numbers[row]:
                    assert copies is not None
                    rng = np.random.default_rng([copies.seed, int(rows[row]), int(numbers[row])])
                    pixels = near_duplicate(pixels, rng)
                images.append(png(pixels))
            column = pa.array(images, pa.binary())
            whole = block.append_column(schema.field("image"), column)
            writer.write_table(whole.filter(column.is_valid()) if column.null_count else whole)
        if len(failed) == kept.n:
            raise KdbiasError(f"{source.origin}: no image can be read; the first: {failed[0]}")
    if failed:
        lost = counted(len(failed), "image", "takes/take")
        say(
            f"{source.origin}: {lost} no part, as it cannot be read: {failed[0]}{', ...' * (len(failed) > 1)}"
        )


def _shrinking(size: str | int) -> Preprocessing:
    """What makes images as large as students take them."""
    from kdbias.teachers.preprocessing import Preprocessing
    from kdbias.training.settings import TrainingSettings

    shape = TrainingSettings.read(None, {"image_size": size}).image_size
    assert shape is not None
    return Preprocessing(size=shape)


def read_rows(path: Path, ids: pa.Array) -> np.ndarray:
    """(n,) bool: which of the samples have an image in a file that `write_images` wrote."""
    return pc.is_in(ids, value_set=read_table(path, ["sample_id"]).column(0).combine_chunks()).to_numpy(
        zero_copy_only=False
    )


def _with_copies(
    rows: np.ndarray, numbers: np.ndarray, part: np.ndarray, copies: Copies
) -> tuple[np.ndarray, np.ndarray]:
    """The rows, then those of the originals, each as often as it is copied, with the copies' numbers."""
    train = np.flatnonzero(part == TRAIN)
    require_enough(copies.originals, len(train), "originals of copies", copies.place)
    chosen = np.sort(np.random.default_rng(copies.seed).choice(train, copies.originals, replace=False))
    more = np.tile(np.arange(1, copies.each + 1), len(chosen))
    return np.concatenate([rows, np.repeat(chosen, copies.each)]), np.concatenate([numbers, more])


def _numbered(ids: pa.Array, numbers: np.ndarray) -> pa.Array:
    """Ids; those of copies with their number."""
    pairs = zip(ids.to_pylist(), numbers.tolist(), strict=True)
    return pa.array([f"{name}-copy{k:03d}" if k else name for name, k in pairs], ids.type)


def png(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG of uint8 pixels (h, w, 3), grey where all channels agree."""
    from PIL import Image

    grey = bool((pixels == pixels[:, :, :1]).all())
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
