"""Networks in a file of their own runtime: one rule for what goes in and what comes out.

In: one image of rank 4, channels first or last as its fixed axes say, in float32, float64, float16 or uint8;
a batch size that is fixed in the file is kept to. Out: one vector an image, as for all teachers; of several
outputs the one that was asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.teachers.teacher import Teacher, choose_output

_IMAGES = ("float32", "float64", "float16", "uint8")


@dataclass(frozen=True)
class Port:
    """An input or output as a file declares it.

    type   as NumPy names it ("float32"), or the runtime's own word where NumPy has none
    shape  one entry an axis, None where it is open; None where even the rank is
    """

    name: str
    type: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        axes = (
            "any shape" if self.shape is None else ", ".join("?" if a is None else str(a) for a in self.shape)
        )
        return f"{self.name} {self.type} ({axes})"


class ExportedTeacher(Teacher):
    """A network that a runtime runs; a back-end opens the file and gives `_infer`."""

    def _set_ports(self, inputs: Sequence[Port], outputs: Sequence[Port], asked: str | None) -> None:
        """Take the ports of the file; `spec` and `preprocessing` must be set.

        Raises KdbiasError for anything but one image that fits the preprocessing, and for several outputs of
        which none was asked for.
        """
        names = [str(port.name) for port in outputs]
        self._output = choose_output(names, [str(port) for port in outputs], asked, self.spec)
        self.output = names[self._output] if len(names) > 1 else None
        given = "; ".join(str(port) for port in inputs)
        if len(inputs) != 1 or inputs[0].type not in _IMAGES or len(inputs[0].shape or (0,) * 4) != 4:
            raise KdbiasError(
                f"teacher {self.spec} should have one input of images (b, c, h, w) or (b, h, w, c) in "
                f"{', '.join(_IMAGES)}; it has {given}"
            )
        self._dtype = np.dtype(inputs[0].type)
        if self._dtype == np.uint8:
            self._require_plain_pixels()
        self._set_layout(inputs[0].shape or (None,) * 4, given)

    def _set_layout(self, shape: Sequence[int | None], given: str) -> None:
        """Take channels first, as most files have it, unless the shape says otherwise: axes may be open."""
        batch, *axes = shape
        self._batch = batch
        channels, (height, width) = self.preprocessing.channels, self.preprocessing.size
        self._channels_first = _fits(axes, (channels, height, width))
        if not self._channels_first and not _fits(axes, (height, width, channels)):
            raise KdbiasError(
                f"teacher {self.spec} takes input of shape {given}, the preprocessing gives {height}x{width} "
                f"(h x w) with {channels} channels"
            )
        if batch == channels > 1 and axes[0 if self._channels_first else 2] is None:
            raise KdbiasError(
                f"teacher {self.spec}: the first axis of {given} seems to be the channels, it should be the "
                "batch"
            )

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        """Of one image in the network's own layout."""
        channels, (height, width) = self.preprocessing.channels, self.preprocessing.size
        return (channels, height, width) if self._channels_first else (height, width, channels)

    @abstractmethod
    def _infer(self, x: np.ndarray, step: int) -> list[np.ndarray]:
        """Images in the network's type and layout, as many as a multiple of `step` -> the chosen output of
        each `step` of them."""

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        x = self.preprocessing.normalise_array(batch)
        if not self._channels_first:
            x = x.transpose(0, 2, 3, 1)
        x = np.ascontiguousarray(x, dtype=self._dtype)
        step = self._step(len(x))
        count, fill = len(x), -len(x) % step
        if fill:  # the last, incomplete batch of a network with a fixed one
            x = np.concatenate([x, np.zeros((fill, *x.shape[1:]), x.dtype)])
        outputs = []
        for output in self._infer(x, step):
            # Whatever comes out of a network that is made for one image belongs to that image.
            alone = self._batch == 1 and output.ndim == 1
            outputs.append(self._checked(output[None] if alone else output, step))
        return np.concatenate(outputs)[:count]

    def _step(self, count: int) -> int:
        """How many of `count` images go through the network at once."""
        return self._batch or count


def _fits(axes: Sequence[int | None], wanted: tuple[int, int, int]) -> bool:
    """Whether a graph's axes, None where free, take the shape wanted."""
    return all(has is None or has == want for has, want in zip(axes, wanted, strict=True))
