"""What a run trains on: images, teacher vectors, labels and weights of the same samples, joined by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, Dataset

from kdbias.data import open_data
from kdbias.data.decode import UnreadableImage, decode_image
from kdbias.data.source import Source
from kdbias.device import parse_bytes
from kdbias.errors import KdbiasError
from kdbias.progress import bar, say
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align, as_strings, shown
from kdbias.tables.weight_manifest import read_manifest
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.training_config import TrainingConfig

_PROBES = 32


@dataclass
class TrainingSet:
    """Everything a step needs, row i of each belonging to sample i of `source`.

    weights      (n,) float64, mean 1
    labels       (n,) int64 class numbers, or None; `classes` holds the label of each number
    targets      (m, dim) float32 unit vectors of the embedding table, or None; sample i has
    targets[target_rows[i]] inputs       fingerprint of each input by its role
    """

    source: Source
    weights: np.ndarray
    preprocessing: Preprocessing
    labels: np.ndarray | None
    classes: list[str]
    targets: np.ndarray | None
    target_rows: np.ndarray | None
    inputs: dict[str, str]

    @property
    def n(self) -> int:
        return self.source.n

    @property
    def image_bytes(self) -> int:
        """Size of all preprocessed images."""
        return self.n * int(np.prod(self.preprocessing.size)) * self.preprocessing.channels

    def target(self, rows: np.ndarray) -> torch.Tensor | None:
        if self.targets is None or self.target_rows is None:
            return None
        return torch.from_numpy(self.targets[self.target_rows[rows]])

    def label(self, rows: np.ndarray) -> torch.Tensor | None:
        return None if self.labels is None else torch.from_numpy(self.labels[rows])


def open_training_set(data: str | Path, config: TrainingConfig, needs: frozenset[str]) -> TrainingSet:
    """Join data, embedding table and weight manifest by id, and check them before the first step.

    The rows of the weight manifest are trained on, in its order; without one, all rows of the data (less
    those that the embedding table lists as failures). `needs` is what the loss needs: "target", "label".
    Raises KdbiasError where an input is missing, ids do not match, or labels do not serve.
    """
    if "target" in needs and config.embeddings is None:
        raise KdbiasError(
            f"loss {config.loss} learns from a teacher: give --embeddings, or "
            "--loss softmax to learn from labels"
        )
    columns = {k: getattr(config, k) for k in ("id_column", "label_column", "path_column", "image_column")}
    source = open_data(data, where=config.where, root=config.root, **columns)
    inputs = {"data": source.fingerprint}
    table = EmbeddingTable.open(config.embeddings) if config.embeddings and "target" in needs else None
    if config.weights is not None:
        manifest = read_manifest(config.weights)
        inputs["weights"] = manifest.fingerprint
        rows = align(manifest.ids, source.ids, f"the weights {config.weights}", f"data {data}")
        source, weights = source.select(rows), manifest.weights
    else:
        source = _without_failures(source, table)
        weights = np.ones(source.n)
    targets = target_rows = None
    if table is not None:
        inputs["embeddings"] = table.fingerprint
        target_rows = align(source.ids, table.ids(), "the training data", f"embedding table {table.path}")
        targets = table.vectors()
    labels, classes = _class_numbers(source, str(data)) if "label" in needs else (None, [])
    preprocessing = _student_preprocessing(source, config)
    return TrainingSet(source, weights, preprocessing, labels, classes, targets, target_rows, inputs)


def _without_failures(source: Source, table: EmbeddingTable | None) -> Source:
    file = table.path / "failures.parquet" if table is not None else None
    if file is None or not file.is_file():
        return source
    import pyarrow.parquet as pq

    failed = as_strings(pq.read_table(file, columns=["sample_id"]).column(0))
    keep = pc.invert(pc.is_in(source.ids, value_set=failed)).to_numpy(zero_copy_only=False)
    if keep.all():
        return source
    say(
        f"train: {source.n - int(keep.sum()):,} samples that the teacher could not read are left out ({file})"
    )
    return source.select(np.flatnonzero(keep))


def _class_numbers(source: Source, where: str) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers 0 .. classes-1 in the sorted order of their names."""
    if source.labels is None:
        raise KdbiasError(f"{where} has no labels, and the loss learns from them: give --label-column")
    labels = as_strings(source.labels)
    if labels.null_count:
        unlabelled = source.ids.filter(pc.is_null(labels))
        raise KdbiasError(
            f"{where}: {labels.null_count:,} of {len(labels):,} training samples have no label "
            f"({shown(unlabelled)}); leave them out with --where or a weight manifest"
        )
    names = pc.unique(labels).sort()
    if len(names) < 2:
        raise KdbiasError(f"{where}: all labels are {names[0].as_py()!r}; a loss on labels needs two classes")
    return pc.index_in(labels, value_set=names).to_numpy().astype(np.int64), names.to_pylist()


def _student_preprocessing(source: Source, config: TrainingConfig) -> Preprocessing:
    """Size of the first image unless --image-size says another; grey where the sampled images are grey."""
    rows = np.unique(np.linspace(0, source.n - 1, min(_PROBES, source.n)).astype(np.int64))
    images = [_decode(source, int(row), "RGB") for row in (rows if config.color == "auto" else rows[:1])]
    color = config.color
    if color == "auto":
        grey = all((image == image[:, :, :1]).all() for image in images)
        color = "L" if grey else "RGB"
    return Preprocessing(
        size=config.image_size or images[0].shape[:2],
        color=color,
        mean=(127.5,) * (1 if color == "L" else 3),
        std=(127.5,) * (1 if color == "L" else 3),
    )


def _decode(source: Source, row: int, color: str) -> np.ndarray:
    try:
        return decode_image(source.read(row), color)
    except UnreadableImage as error:
        name = source.ids[row].as_py()
        raise KdbiasError(
            f"sample {name} cannot be read ({error.reason}); leave it out of the weights"
        ) from error


@dataclass
class Batch:
    """One step's images (b, h, w, c) uint8 and the rows (b,) of the training set they come from."""

    images: torch.Tensor
    rows: np.ndarray


class CachedImages:
    """All images of a training set in one uint8 tensor (n, h, w, c): a batch is one indexing away."""

    def __init__(self, training_set: TrainingSet, workers: int) -> None:
        source, preprocessing = training_set.source, training_set.preprocessing
        shape = (source.n, *preprocessing.size, preprocessing.channels)
        self._images = torch.empty(shape, dtype=torch.uint8)
        array, color = self._images.numpy(), preprocessing.decode_color

        def fill(start: int) -> int:
            for row in range(start, min(start + 256, source.n)):
                array[row] = preprocessing.apply(_decode(source, row, color))
            return min(256, source.n - start)

        starts = range(0, source.n, 256)
        with bar(source.n, "images", "decoding") as progress, ThreadPoolExecutor(max(1, workers)) as pool:
            for done in pool.map(fill, starts):
                progress.update(done)

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        for rows in row_batches:
            yield Batch(self._images[torch.from_numpy(rows)], rows)


class _ImageRows(Dataset[tuple[np.ndarray, int]]):
    def __init__(self, source: Source, preprocessing: Preprocessing) -> None:
        self.source, self.preprocessing = source, preprocessing

    def __len__(self) -> int:
        return self.source.n

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        image = _decode(self.source, row, self.preprocessing.decode_color)
        return self.preprocessing.apply(image), row


def _stack(samples: Sequence[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, rows = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(images)), torch.tensor(rows)


class StreamedImages:
    """Images decoded when they are due, ahead of the step, by worker processes (none: in process)."""

    def __init__(self, training_set: TrainingSet, workers: int, pin_memory: bool) -> None:
        self._rows = _ImageRows(training_set.source, training_set.preprocessing)
        self._options: dict[str, Any] = {
            "num_workers": workers,
            "pin_memory": pin_memory,
            "collate_fn": _stack,
        }
        if workers:
            self._options["prefetch_factor"] = 4

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        lists = (rows.tolist() for rows in row_batches)
        loader = DataLoader(self._rows, batch_sampler=lists, **self._options)
        try:
            for images, rows in loader:
                yield Batch(images, rows.numpy())
        except KdbiasError as error:
            # A worker's error arrives as its whole traceback; the last line is the message.
            raise KdbiasError(str(error).strip().splitlines()[-1].rpartition("KdbiasError: ")[2]) from error


def open_images(
    training_set: TrainingSet, config: TrainingConfig, pin_memory: bool = False
) -> CachedImages | StreamedImages:
    """Decoded images from memory where they fit `config.cache`, else from workers; same order and bytes."""
    budget = 0 if config.cache.strip() == "0" else parse_bytes(config.cache)
    if training_set.image_bytes <= budget:
        return CachedImages(training_set, config.workers)
    return StreamedImages(training_set, config.workers, pin_memory)


def index_batches(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The sampler's blocks, less a last one of a single row: batch norm has no variance to take from it."""
    for rows in blocks:
        if len(rows) > 1:
            yield rows
