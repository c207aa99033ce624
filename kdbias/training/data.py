"""What a run trains on: images, teacher vectors, labels and weights of the same samples, joined by id."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch

from kdbias.data.decode import decode_image
from kdbias.data.opening import open_data
from kdbias.data.source import Source
from kdbias.embedding.batches import require_consistent
from kdbias.errors import KdbiasError
from kdbias.loading import Prepared, failure_reason
from kdbias.losses import Targets, loss_needs
from kdbias.progress import say
from kdbias.sampler.sharded_order import BUFFER, Shards
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align, as_strings, shown
from kdbias.tables.parquet_file import read_table
from kdbias.tables.provenance import inputs_in
from kdbias.tables.weight_manifest import WeightManifest, read_manifest
from kdbias.teachers import Teacher, open_teacher
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.training.images import Unreadable
from kdbias.training.processes import Processes
from kdbias.training.settings import TrainingSettings
from kdbias.training.step import mirror
from kdbias.training.targets import StoredTargets, read_targets
from kdbias.wording import counted

_PROBES = 32
_REMEDY = (
    "kdbias embed it with --batch-size 1 and give --embeddings, or export the network for any batch size"
)


@dataclass
class TrainingSet:
    """Everything a step needs, row i of each belonging to sample i of `source`.

    weights         (n,) float64, mean 1; empty once the sampler has them
    preprocessings  the student's, and the live teacher's where there is one
    labels          (n,) int64 class numbers, or None; `classes` holds the label of each number
    targets         the stored vectors by sample, or None
    teacher         embeds the pixels of the step itself, or None; the first batch shows whether it
                    embeds an image alone as in a batch
    dim             of the teacher's vectors, None without a teacher
    inputs          fingerprint of each input by its role
    unreadable      the samples whose images cannot be read, as far as known
    shards          those that samples are drawn from a few at a time, or None
    """

    source: Source
    weights: np.ndarray
    preprocessings: list[Preprocessing]
    labels: np.ndarray | None
    classes: list[str]
    targets: StoredTargets | None
    teacher: Teacher | None
    inputs: dict[str, str]
    unreadable: Unreadable
    shards: Shards | None = None
    teacher_checked: bool = False

    @property
    def n(self) -> int:
        """How many samples there are."""
        return self.source.n

    @property
    def preprocessing(self) -> Preprocessing:
        """The student's preprocessing."""
        return self.preprocessings[0]

    @property
    def dim(self) -> int | None:
        """Dimensions of the teacher's vectors; None without a teacher."""
        if self.teacher is not None:
            return self.teacher.dim
        return None if self.targets is None else self.targets.vectors.shape[1]

    def sharding(self, processes: int) -> dict[str, dict[str, int]]:
        """For the record of a run that draws shard by shard: of how many, from how many images at a time."""
        if self.shards is None:
            return {}
        near = self.shards.neighbourhood(self.n, processes)
        at_hand = min(BUFFER, len(self.shards))
        return {"sharded": {"shards": len(self.shards), "at_hand": at_hand, "neighbourhood": near}}

    def targets_of(self, batch: Prepared, flips: np.ndarray | None, device: torch.device) -> Targets:
        """What a loss gets of a batch; of the images that `flips` (bool) chooses, by their mirrored view."""
        targets = Targets()
        if self.teacher is not None:
            seen = (mirror(batch.images[1], flips) if flips is not None else batch.images[1]).numpy()
            vectors = self.teacher.embed(seen)
            if not self.teacher_checked:
                require_consistent(self.teacher, seen, vectors, remedy=_REMEDY)
                self.teacher_checked = True
            norms = np.linalg.norm(vectors, axis=1).clip(1e-12)
            targets.vector, targets.norm = _to(device, vectors / norms[:, None]), _to(device, norms)
        elif self.targets is not None:
            vectors, norms = self.targets.at(batch.rows, flips)
            targets.vector, targets.norm = _to(device, vectors), _to(device, norms)
        if self.labels is not None:
            targets.label = _to(device, self.labels[batch.rows])
        return targets


def _to(device: torch.device, array: np.ndarray | None) -> torch.Tensor | None:
    """The array as tensor on the device, copied without waiting."""
    if array is None:
        return None
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # from pageable memory, the copy would wait for all that the device has to do
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def open_training_set(data: str | Path, config: TrainingSettings, processes: Processes) -> TrainingSet:
    """Join data, embedding table and weight manifest by id, and check them before the first step.

    The rows of the weight manifest are trained on, in its order; without one, all rows of the data (less
    those that the embedding table lists as failures). Raises KdbiasError where an input is missing, ids do
    not match, or labels or flips do not serve.
    """
    needs = loss_needs(config.loss)
    source = open_data(data, **config.reading)
    inputs = {"data": source.fingerprint}
    table = EmbeddingTable.open(config.embeddings) if config.embeddings else None
    if config.weights is not None:
        manifest = read_manifest(config.weights)
        inputs["weights"] = manifest.fingerprint
        rows = align(manifest.id_parts, source.ids, f"the weights {config.weights}", f"data {data}")
        source, weights = source.select(rows), manifest.weights
        if table is not None:
            _say_what_lacks_weights(manifest, table)
    else:
        source = _without_failures(source, table)
        weights = np.ones(source.n)
    unreadable = Unreadable(source, config, weights > 0)
    shards = Shards(source.by_shard(BUFFER + 1), source.n) if config.sharded else None
    preprocessings, teacher, targets = [_student_preprocessing(config, unreadable)], None, None
    if table is not None:
        inputs["embeddings"] = table.fingerprint
        targets = _stored_targets(table, source, config, processes, "norm" in needs, shards)
    elif config.live_teacher is not None:
        teacher = _live_teacher(config.live_teacher, str(processes.device))
        inputs["teacher"] = teacher.fingerprint
        preprocessings.append(teacher.preprocessing)
    labels, classes = _class_numbers(source, str(data)) if "label" in needs else (None, [])
    return TrainingSet(
        source, weights, preprocessings, labels, classes, targets, teacher, inputs, unreadable, shards
    )


def _say_what_lacks_weights(manifest: WeightManifest, table: EmbeddingTable) -> None:
    """Say how many samples have come to the embedding table since the weights were made."""
    grown, made = table.provenance.get("grown"), inputs_in(manifest.provenance).get("embeddings")
    if grown is None or made != grown["from"]:
        return
    known = align(table.id_parts(), manifest.id_parts, "", str(manifest.path), allow_missing=True)
    new = int((known < 0).sum())
    say(
        f"{table.path} has grown since {manifest.path} was made: {counted(new, 'sample')} of it without a "
        "weight are not trained on; measure and weigh anew: kdbias uniformity and kdbias weights, both with "
        "--overwrite"
    )


def _live_teacher(spec: str, device: str) -> Teacher:
    """The teacher that runs beside the student."""
    try:
        return open_teacher(spec, device=device)
    except KdbiasError as error:
        if device == "cpu" or "--device" not in str(error):
            raise
        raise KdbiasError(
            f"--live-teacher {spec} cannot run beside the student on {device} ({error}): kdbias embed it "
            "first and give --embeddings, or train on --device cpu"
        ) from error


def _stored_targets(
    table: EmbeddingTable,
    source: Source,
    config: TrainingSettings,
    processes: Processes,
    with_norms: bool,
    shards: Shards | None,
) -> StoredTargets:
    """The teacher's stored vectors, in the order of the training data."""
    rows = align(source.ids, table.id_parts(), "the training data", f"embedding table {table.path}")
    flipped = config.flip == "target"
    if flipped and not table.has_flip:
        raise KdbiasError(
            f"--flip target needs the teacher's vectors of mirrored images, which {table.path} lacks: "
            "embed again with --flip, use --live-teacher, or --flip same where mirroring changes nothing"
        )
    if flipped and with_norms and not table.has_flip_norms:
        raise KdbiasError(
            f"loss {config.loss} with --flip target needs the norms of the mirrored images' vectors, "
            f"which {table.path} lacks: embed again with --flip, or use a loss on unit vectors"
        )
    return read_targets(table, rows, processes, flipped=flipped, norms=with_norms, shards=shards)


def _without_failures(source: Source, table: EmbeddingTable | None) -> Source:
    """The data without the samples that the teacher could not read."""
    file = table.path / "failures.parquet" if table is not None else None
    if file is None or not file.is_file():
        return source
    failed = as_strings(read_table(file, ["sample_id"]).column(0))
    keep = pc.invert(pc.is_in(source.ids, value_set=failed)).to_numpy(zero_copy_only=False)
    if keep.all():
        return source
    unread = counted(source.n - int(keep.sum()), "sample")
    say(f"train: without {unread} that the teacher could not read ({file})")
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


def _student_preprocessing(config: TrainingSettings, unreadable: Unreadable) -> Preprocessing:
    """Size of the first image unless --image-size says another; grey where the sampled images are grey.

    Where sampled images have other sizes, that is said. Raises KdbiasError where none of the images that are
    drawn can be read.
    """
    drawn = np.flatnonzero(unreadable.drawn)
    probes = np.unique(np.linspace(0, len(drawn) - 1, min(_PROBES, len(drawn))).astype(np.int64))
    images: list[np.ndarray] = []
    for i, row in enumerate(map(int, chain(drawn[probes], drawn))):
        if images and i >= len(probes):
            break
        try:
            images.append(decode_image(unreadable.source.read(row)))
        except Exception as error:  # decoders raise almost anything on damaged files
            unreadable.note([(row, failure_reason(error))])
    unreadable.note((), left=len(images))
    color = config.color
    if color == "auto":
        grey = all((image == image[:, :, :1]).all() for image in images)
        color = "L" if grey else "RGB"
    size = config.image_size or images[0].shape[:2]
    _say_size(size, [image.shape[:2] for image in images], config.image_size is None)
    return Preprocessing(size, color, mean=(127.5,), std=(127.5,))


def _say_size(size: tuple[int, int], seen: Sequence[tuple[int, int]], of_first: bool) -> None:
    """Say that images (height, width) are resized for the student, where sampled ones are."""
    if set(seen) == {size}:
        return
    least, most = (f"{h}x{w}" for h, w in (min(seen, key=math.prod), max(seen, key=math.prod)))
    sizes = f"are {least}" if len(set(seen)) == 1 else f"range from {least} to {most}"
    why = "the first one's; --image-size chooses" if of_first else "--image-size"
    say(
        f"train: images {sizes} pixels (height x width, of {counted(len(seen), 'sampled one')}); "
        f"the student takes {size[0]}x{size[1]}, {why}"
    )
