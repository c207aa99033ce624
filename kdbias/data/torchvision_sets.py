"""Data sets of torchvision by name, from files that are already on the disk; nothing is ever downloaded."""

import inspect
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from kdbias.data import TORCHVISION
from kdbias.data.decode import UnreadableImage
from kdbias.data.settings import Options
from kdbias.data.sharded import Sharded
from kdbias.data.source import Source, make_source, numbered_parts, repeated
from kdbias.errors import KdbiasError
from kdbias.optional import require
from kdbias.progress import bar
from kdbias.tables import fingerprints

_SPLITS = ("train", "trainval", "val", "valid", "test", "extra")
_COVERED_BY = {"trainval": "train"}  # a split that repeats the samples of another
_LABELS = ("targets", "labels", "_labels", "_targets")


class _Part(NamedTuple):
    """One split: its name, and the arguments of its class."""

    split: str
    arguments: dict[str, Any]


class TorchvisionImages(Sharded[Any]):
    """Images of torchvision data sets, opened by each process on first use.

    Args:
        name: class in ``torchvision.datasets``.
        root: folder given to it.
        parts: splits, one after another, each with its data set as this process opened it.
    """

    survives_fork = True

    def __init__(self, name: str, root: str, parts: Sequence[tuple[_Part, Any]]) -> None:
        super().__init__([len(opened) for _, opened in parts], [f"{name}/{part.split}" for part, _ in parts])
        self.name, self.root = name, root
        self.parts = tuple(part for part, _ in parts)
        self._held.update(enumerate(opened for _, opened in parts))

    def _open(self, number: int) -> Any:
        return _build(self.name, self.root, self.parts[number])

    def read(self, row: int) -> np.ndarray:
        """Pixels of a row, uint8 (height, width[, 3])."""
        part, at = self.place(row)
        dataset = self.opened(part)
        try:
            image = dataset[at][0]
            if image.mode not in ("L", "RGB"):
                image = image.convert("RGB")
            return np.array(image)
        except (OSError, ValueError, AttributeError, SyntaxError) as error:
            raise UnreadableImage(f"{self.name} gave no image: {error}") from None


def open_torchvision(data: str, options: Options) -> Source:
    """Open ``torchvision:NAME`` (or ``torchvision:NAME?option=value&...`` for further arguments of the
    class).

    All splits that lie on the disk are opened; they become the group ``split``. Ids are "<split>/<number>",
    labels the class names where the data set has some. The files are sought in ``options.root``, else in
    ``$KDBIAS_DATA``. The fingerprint covers name, splits, labels and the arrays that the data set keeps in
    memory, not single image files.

    Raises:
        KdbiasError: no such data set, files that are missing, or items that are not (image, label).
    """
    name, arguments = _parse(data)
    root = options.root or os.environ.get("KDBIAS_DATA")
    if not root:
        raise KdbiasError(f"{data}: where are its files? Give --root FOLDER or set KDBIAS_DATA")
    root = os.path.abspath(root)
    found = _parts(name, root, arguments)
    parts, opened = zip(*found, strict=True)
    lengths = [len(dataset) for dataset in opened]
    numbers = np.concatenate([_labels(data, dataset) for dataset in opened])
    naming = options.naming
    if options.label_names is None:
        options = replace(options, label_names=_names(opened[0], numbers))
    splits = [part.split for part in parts]
    contents = [fingerprints.of_arrays(_array(dataset)) for dataset in opened]
    return make_source(
        "torchvision",
        data,
        options,
        numbered_parts([f"{split}/" for split in splits], lengths, 6),
        TorchvisionImages(name, root, found),
        [name, arguments, contents, fingerprints.of_arrays(numbers), *naming],
        labels=pa.array(numbers),
        groups={"split": repeated(splits, lengths)},
    )


def _parse(data: str) -> tuple[str, dict[str, Any]]:
    """Name and options of torchvision:NAME?option=value."""
    name, _, text = data.removeprefix(TORCHVISION).partition("?")
    arguments: dict[str, Any] = {}
    for item in filter(None, text.split("&")):
        key, sign, value = item.partition("=")
        if not sign or key in ("root", "download", "transform", "target_transform", "loader"):
            raise KdbiasError(
                f"{data}: {item!r} is no option; write torchvision:NAME?option=value&option=value"
            )
        literal = {"true": True, "false": False}.get(value.lower(), value)
        arguments[key] = int(value) if value.isdigit() else literal
    return name, arguments


def _class(name: str) -> Any:
    """The class of a data set that reads files; KdbiasError for an unknown name."""
    datasets = require("torchvision.datasets", package="torchvision")
    found = getattr(datasets, name, None) if name in datasets.__all__ else None
    # A set without a root reads no files, it makes its pictures up.
    if not inspect.isclass(found) or "root" not in inspect.signature(found).parameters:
        close = [known for known in datasets.__all__ if known != name and known.lower() == name.lower()]
        hint = f"; did you mean {close[0]}?" if close else ", see torchvision.datasets"
        raise KdbiasError(f"torchvision:{name}: there is no such data set{hint}")
    return found


def _parts(name: str, root: str, arguments: dict[str, Any]) -> list[tuple[_Part, Any]]:
    """The splits that are on the disk, each with its data set."""
    parameters = {p for kind in inspect.getmro(_class(name))[:-1] for p in inspect.signature(kind).parameters}
    choices: list[tuple[str, dict[str, Any]]] = [(str(arguments.get("split", "all")), {})]
    if "train" in parameters and "train" not in arguments:
        choices = [("train", {"train": True}), ("test", {"train": False})]
    elif "split" in parameters and "split" not in arguments:
        choices = [(split, {"split": split}) for split in _SPLITS]
    found: list[tuple[_Part, Any]] = []
    problems = []
    for split, choice in choices:
        if any(_COVERED_BY.get(split) == part.split for part, _ in found):
            continue
        part = _Part(split, arguments | choice)
        try:
            found.append((part, _build(name, root, part)))
        except KdbiasError as error:
            problems.append(error)
    if not found:
        raise problems[0]
    return found


def _build(name: str, root: str, part: _Part) -> Any:
    """The data set; whatever keeps it from opening is an error that says how to get it."""
    kind = _class(name)
    # A few classes would download by default.
    still = {"download": False} if "download" in inspect.signature(kind).parameters else {}
    try:
        return kind(root, **part.arguments | still)
    except ImportError as error:
        raise KdbiasError(f"torchvision:{name} needs another library ({error})") from None
    except Exception as error:  # each class has its own way to say that files are missing
        reason = " ".join(str(error).split()).partition(" You can use download")[0]
        raise KdbiasError(
            f"torchvision:{name} cannot be opened in {root} ({reason}); kdbias downloads nothing: fetch it "
            f"first with torchvision.datasets.{name}({root!r}, download=True)"
        ) from None


def _labels(data: str, dataset: Any) -> np.ndarray:
    """(n,) int64 labels, without decoding the images where the data set keeps them in a list."""
    for attribute in _LABELS:
        values = getattr(dataset, attribute, None)
        array = None if values is None or len(values) != len(dataset) else np.asarray(values)
        if array is not None and array.ndim == 1 and array.dtype.kind in "iu":
            return array.astype(np.int64)
    labels = np.empty(len(dataset), np.int64)
    with bar(len(dataset), "images", "labels") as progress:
        for i in range(len(dataset)):
            item = dataset[i]
            if not isinstance(item, tuple) or len(item) < 2 or not isinstance(item[1], int | np.integer):
                raise KdbiasError(
                    f"{data}: its items are not (image, whole number), so kdbias cannot read it"
                )
            labels[i] = int(item[1])
            progress.update(1)
    return labels


def _names(dataset: Any, labels: np.ndarray) -> tuple[str, ...] | None:
    """Class names of a data set, where they fit its labels int (samples,)."""
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    fits = len(set(names)) == len(names) and labels.min() >= 0 and labels.max() < len(names)
    return tuple(names) if fits else None


def _array(dataset: Any) -> np.ndarray | None:
    """The numbers a data set holds in memory; None where it holds none."""
    try:
        array = np.asarray(getattr(dataset, "data", None))
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "uif" else None
