"""What a teacher is: prepared pixels in, raw embeddings out, with everything that identifies it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError, first_line
from kdbias.tables import fingerprints
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.wording import counted

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class TeacherOptions:
    """How a teacher is to be run; every back-end gets the same.

    device         "cpu" or "cuda:N", already resolved
    precision      "fp32", "bf16" or "fp16": of the arithmetic; embeddings always come back as float32
    preprocessing  replaces the teacher's own, or supplies it where the model file holds none
    channels_last  memory layout of torch networks; None: channels_last with reduced precision only
    compile        pass torch networks through torch.compile (slow start, faster batches)
    output         name or index of the output to take, where a network has several
    """

    device: str = "cpu"
    precision: str = "fp32"
    preprocessing: Preprocessing | None = None
    channels_last: bool | None = None
    compile: bool = False
    output: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise KdbiasError(f"--precision is {self.precision!r}, should be one of {', '.join(PRECISIONS)}")

    def refuse(self, kind: str, takes: str = "") -> None:
        """Refuse options that the back-end `kind` cannot honour; `takes`: the names of those that it can."""
        layout = "--no-channels-last" if self.channels_last is False else "--channels-last"
        given = {
            "preprocessing": self.preprocessing is not None and "--preprocessing",
            "precision": self.precision != "fp32" and f"--precision {self.precision}",
            "device": self.device != "cpu" and f"--device {self.device}",
            "channels_last": self.channels_last is not None and layout,
            "compile": self.compile and "--compile",
        }
        refused = [option for name, option in given.items() if option and name not in takes.split()]
        if refused:
            # "auto" may have chosen the device: then there is nothing to leave out.
            device = f"--device {self.device}" in refused
            ways = ["leave it out"] * (len(refused) > device) + ["use --device cpu"] * device
            raise KdbiasError(f"a {kind}: teacher does not take {', '.join(refused)}; {' and '.join(ways)}")


class Teacher(ABC):
    """A network behind one door, whatever runs it.

    spec           as the user wrote it
    dim            length of an embedding
    preprocessing  what happens to an image before it
    fingerprint    digest of weights and preprocessing: equal means equal embeddings up to rounding
    runs_code      True where opening it executed code that is not kdbias's
    output         name or index of the output that gives the embeddings, where the network has several
    note           what was taken of a file of weights, and what was left out
    """

    spec: str
    dim: int
    preprocessing: Preprocessing
    fingerprint: str
    runs_code: bool = False
    _asked: str | None = None
    output: str | None = None
    note: str = ""
    device: str = "cpu"
    precision: str = "fp32"

    @abstractmethod
    def _embed(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (b, h, w, c) -> (b, d) of any float type."""

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Prepared images, uint8 (b, h, w, c) as `preprocessing.apply` gives -> raw float32 (b, dim).

        Not normalised. Raises KdbiasError where the teacher gives another shape.
        """
        return self._checked(self._embed(np.ascontiguousarray(batch)), len(batch))

    def stream(self, batches: Iterable[Any], flip: bool = False) -> Iterator[np.ndarray]:
        """Embed batch after batch, in order; items are arrays or CPU tensors, uint8 (b, h, w, c).

        With `flip`, those of the mirrored images follow each batch's own. A back-end with its own device
        overlaps copies and arithmetic here.
        """
        for batch in batches:
            images = np.asarray(batch)
            yield self.embed(images)
            if flip:
                yield self.embed(images[:, :, ::-1])

    def describe(self) -> str:
        """One line for people."""
        output = f", output {self.output}" if self.output is not None else ""
        code = ", runs its author's code" if self.runs_code else ""
        return f"teacher {self.spec} ({self.dim}-d{output}{code})"

    def _chosen(self, output: Any) -> Any:
        """The output that was asked for of what a Python function gave: one thing, or several."""
        if isinstance(output, Mapping):
            names, values = [str(key) for key in output], list(output.values())
        elif isinstance(output, list | tuple):
            fields = getattr(output, "_fields", range(len(output)))
            names, values = [str(field) for field in fields], list(output)
        else:
            names, values = ["0"], [output]
        told = [
            f"{n} {getattr(v, 'dtype', type(v).__name__)} {tuple(v.shape) if hasattr(v, 'shape') else ''}"
            for n, v in zip(names, values, strict=True)
        ]
        index = choose_output(names, told, self._asked, self.spec)
        if len(names) > 1:
            self.output = names[index]
        return values[index]

    def _checked(self, output: np.ndarray, count: int) -> np.ndarray:
        """What a network gave for `count` images as float32 (count, d); axes of length 1 go."""
        vectors = np.asarray(output)
        if vectors.ndim > 2 and len(vectors) == count:
            if sum(axis > 1 for axis in vectors.shape[1:]) > 1:
                raise KdbiasError(
                    f"teacher {self.spec} gave a map of shape {vectors.shape} for {counted(count, 'image')}, "
                    "not one vector an image: pool it in the network, or take another output with --output"
                )
            vectors = vectors.reshape(count, -1)
        dim = getattr(self, "dim", None)
        wanted = f"({count}, {dim if dim is not None else 'd'})"
        if vectors.ndim != 2 or len(vectors) != count or (dim is not None and vectors.shape[1] != dim):
            raise KdbiasError(
                f"teacher {self.spec} gave {vectors.dtype} {vectors.shape} for {counted(count, 'image')}; "
                f"it should give one vector an image, {wanted}"
            )
        if vectors.dtype.kind != "f":
            raise KdbiasError(f"teacher {self.spec} gave {vectors.dtype} values; embeddings must be floats")
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _require_plain_pixels(self) -> None:
        """For a network with uint8 input, which normalised numbers would be cut down to silently."""
        mean, std = self.preprocessing.mean, self.preprocessing.std
        if any(mean) or any(value != 1 for value in std):
            raise KdbiasError(
                f"teacher {self.spec} takes uint8 pixels and normalises them itself; the preprocessing has "
                f"mean {mean} and std {std}, should have mean = [0] and std = [1]"
            )

    def _identify(self, kind: str, content: str) -> None:
        """Find the dimension, by embedding one black image, and the fingerprint.

        It is of what decides the embeddings: the back-end `kind`, the content (a digest of the weights), the
        preprocessing and, where there are several outputs, the chosen one.
        """
        height, width = self.preprocessing.size
        black = np.zeros((1, height, width, self.preprocessing.channels), np.uint8)
        try:
            self.dim = int(self.embed(black).shape[1])
        except KdbiasError:
            raise
        except Exception as error:  # whatever a back-end raises on input it was not made for
            raise KdbiasError(
                f"teacher {self.spec} cannot embed an image of {height}x{width}x{black.shape[3]}: "
                f"{first_line(error)}"
            ) from error
        what = {"kind": kind, "content": content, "preprocessing": self.preprocessing.to_dict()}
        self.fingerprint = fingerprints.of_json(
            what | ({} if self.output is None else {"output": self.output})
        )


def choose_output(names: Sequence[str], described: Sequence[str], asked: str | None, spec: str) -> int:
    """The index of the output `asked` for by name or index; not to be asked for where there is but one.

    Raises KdbiasError listing them as `described` where `asked` names none of several, or another.
    """
    if asked is None and len(names) == 1:
        return 0
    if asked is not None and asked in names:
        return list(names).index(asked)
    if asked is not None and asked.isdecimal() and int(asked) < len(names):
        return int(asked)
    listed = "; ".join(f"{i}: {each}" for i, each in enumerate(described)) or "none"
    what = f"has no output {asked!r}" if asked is not None else f"has {counted(len(names), 'output')}"
    raise KdbiasError(
        f"teacher {spec} {what}; choose one with --output NAME|INDEX (kdbias embed, evaluate): {listed}"
    )
