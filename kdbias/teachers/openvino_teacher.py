"""`openvino:FILE.xml` (or `.onnx`): a network run by OpenVINO on the CPU.

Unless the file fixes another batch size, images go through one by one, several at once: most published files
have a fixed batch of 1, and this way an embedding cannot depend on its batch. The precision is always stated
to the runtime, because on CPUs with bfloat16 its own choice is bfloat16.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.optional import require
from kdbias.tables import fingerprints
from kdbias.teachers.exported import ExportedTeacher, Port
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.teacher import TeacherOptions, teacher_fingerprint

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoTeacher(ExportedTeacher):
    """A compiled OpenVINO model on prepared images."""

    def __init__(self, file: str, options: TeacherOptions) -> None:
        options.refuse("openvino", preprocessing=True, precision=True)
        path = Path(file)
        if not path.is_file():
            raise KdbiasError(f"teacher openvino:{file}: no such file")
        self.spec, self.precision = f"openvino:{file}", options.precision
        self.preprocessing = find_preprocessing(file, options)
        openvino = require("openvino", extra="openvino")
        try:
            core = openvino.Core()
            model = core.read_model(file)
            inputs = model.inputs
            self._set_ports(
                [_port(each, i, "input") for i, each in enumerate(inputs)],
                [_port(each, i, "output", options.output) for i, each in enumerate(model.outputs)],
                options.output,
            )
            if inputs[0].get_partial_shape().is_dynamic:
                model.reshape({inputs[0]: [self._batch or 1, *self._image_shape]})
            settings = {
                "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
                "PERFORMANCE_HINT": "THROUGHPUT",
            }
            with _signal_stack_kept():
                compiled = core.compile_model(model, "CPU", settings)
        except KdbiasError:
            raise
        except Exception as error:  # the runtime raises RuntimeError for any damage to the files
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise KdbiasError(f"teacher {self.spec} cannot be opened by OpenVINO: {reason}") from error
        # Not an AsyncInferQueue: its threads take Python's lock to let go of a callback, while whoever
        # deletes the model holds that lock and waits for the threads: now and then neither ever goes on.
        count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [compiled.create_infer_request() for _ in range(count)]
        weights = [f for f in (path, path.with_suffix(".bin")) if f.is_file()]
        content = fingerprints.of_json([fingerprints.of_file(f) for f in weights])
        self.fingerprint = teacher_fingerprint("openvino", content, self.preprocessing, self.output)
        self.dim = self._probe_dim()

    def _step(self, count: int) -> int:
        return self._batch or 1

    def _infer(self, x: np.ndarray, step: int) -> list[np.ndarray]:
        at_once, pieces = len(self._requests), [x[i : i + step] for i in range(0, len(x), step)]
        outputs = []
        for i, piece in enumerate(pieces):
            if i >= at_once:
                outputs.append(self._result(i - at_once))
            self._requests[i % at_once].start_async({0: piece})
        return outputs + [self._result(i) for i in range(len(outputs), len(pieces))]

    def _result(self, i: int) -> np.ndarray:
        """Wait for piece i. Copied: the request's memory is used again for a later one."""
        request = self._requests[i % len(self._requests)]
        request.wait()
        return np.array(request.get_output_tensor(self._output).data)


def open_openvino(rest: str, options: TeacherOptions) -> OpenVinoTeacher:
    """Open `openvino:REST`."""
    return OpenVinoTeacher(rest, options)


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """Keep the stack on which this thread takes signals (none, unless someone gave it one).

    The runtime's CPU device brings its own and frees it with the model. Where two models were open, or one is
    dropped in another thread, the freed one stays in use, and the next signal (Ctrl-C, the end of a decode
    worker) ends the process.
    """
    before = _Stack()
    swap = ctypes.CDLL(None).sigaltstack if sys.platform == "linux" else lambda *_: 0
    swap(None, ctypes.byref(before))
    try:
        yield
    finally:
        swap(ctypes.byref(before), None)


def _port(port: Any, index: int, kind: str, asked: str | None = None) -> Port:
    """Name, shape and type of an input or output."""
    names = sorted(port.get_names())
    name = asked if asked in names else next(iter(names), f"{kind} {index}")
    shape, number = port.get_partial_shape(), port.get_element_type()
    axes = (
        [None if axis.is_dynamic else axis.get_length() for axis in shape] if shape.rank.is_static else None
    )
    try:
        stated = np.dtype(number.to_dtype()).name
    except (RuntimeError, TypeError):  # bfloat16 and what is smaller than a byte
        stated = number.get_type_name()
    return Port(str(name), stated, None if axes is None else tuple(axes))
