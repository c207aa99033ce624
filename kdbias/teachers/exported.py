"""Networks in a file of their own runtime: `onnx:FILE`, `openvino:FILE.xml` (or `.onnx`).

In: one image of rank 4, channels first or last as its fixed axes say, in float32, float64, float16 or uint8;
a batch size that is fixed in the file is kept to. Out: one vector an image, as for all teachers; of several
outputs the one that was asked for. ONNX Runtime computes in the file's own precision. To OpenVINO, which runs
on the CPU, the precision is always stated, because on CPUs with bfloat16 its own choice is bfloat16.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kdbias.errors import KdbiasError, first_line
from kdbias.optional import require
from kdbias.tables import fingerprints
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.teacher import Teacher, TeacherOptions, choose_output

_IMAGES = ("float32", "float64", "float16", "uint8")
_ONNX_TYPES = {"float": "float32", "double": "float64"}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


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
    """A network that a runtime runs; a back-end opens the file and gives `_infer`.

    kind    of its specs
    takes   names of the options that it can honour, as `TeacherOptions.refuse` wants them
    beside  names of files of weights that may lie beside the graph, of its own name and stem
    """

    kind: ClassVar[str]
    takes: ClassVar[str]
    beside: ClassVar[Sequence[str]]

    def __init__(self, file: str, options: TeacherOptions) -> None:
        options.refuse(self.kind, self.takes)
        self.spec, self.device, self.precision = f"{self.kind}:{file}", options.device, options.precision
        path = Path(file)
        self.preprocessing = find_preprocessing(file, options)
        self._open(file, options)
        beside = [path.with_name(name.format(path.name, stem=path.stem)) for name in self.beside]
        content = fingerprints.of_json([fingerprints.of_file(f) for f in (path, *beside) if f.is_file()])
        self._identify(self.kind, content)

    @abstractmethod
    def _open(self, file: str, options: TeacherOptions) -> None:
        """Open the file in the runtime, and `_set_ports`."""

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


class OnnxTeacher(ExportedTeacher):
    """An ONNX Runtime session on prepared images."""

    kind, takes = "onnx", "preprocessing device"
    beside = ("{}.data", "{}_data")  # where large networks keep their weights

    def _open(self, file: str, options: TeacherOptions) -> None:
        self._session = _session(file, options.device)
        inputs, outputs = (
            [Port(each.name, _onnx_type(each.type), _onnx_shape(each.shape)) for each in ports]
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )
        self._set_ports(inputs, outputs, options.output)
        self._names = [outputs[self._output].name], inputs[0].name

    def _infer(self, x: np.ndarray, step: int) -> list[np.ndarray]:
        outputs, name = self._names
        return [self._session.run(outputs, {name: x[i : i + step]})[0] for i in range(0, len(x), step)]


def _onnx_type(stated: str) -> str:
    """NumPy's name of a type as the runtime states it."""
    inner = stated.removeprefix("tensor(").removesuffix(")")
    return _ONNX_TYPES.get(inner, inner)


def _onnx_shape(stated: list[Any] | None) -> tuple[int | None, ...] | None:
    """A stated shape, None for free axes; None where it is unknown."""
    # Of an unknown rank the runtime says nothing, as of a scalar, which no image is.
    return tuple(axis if isinstance(axis, int) and axis > 0 else None for axis in stated) if stated else None


def _session(file: str, device: str) -> Any:
    """A session on the device."""
    runtime = require("onnxruntime", extra="onnx")
    kind, _, index = device.partition(":")
    provider = _PROVIDERS[kind]
    if provider not in runtime.get_available_providers():
        raise KdbiasError(
            f"this onnxruntime has no {provider} for --device {device}; install onnxruntime-gpu, or use "
            "--device cpu"
        )
    chosen: Any = (provider, {"device_id": int(index or 0), "use_tf32": 0}) if kind == "cuda" else provider
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3  # its warnings about shapes would be repeated for each batch
    try:
        session = runtime.InferenceSession(file, settings, providers=[chosen])
    except Exception as error:  # the runtime has an error class of its own for each kind of damage
        raise KdbiasError(f"teacher onnx:{file} cannot be read: {first_line(error)}") from error
    if provider not in session.get_providers():
        raise KdbiasError(f"onnxruntime fell back to the CPU for {file}: CUDA or cuDNN libraries are missing")
    return session


class OpenVinoTeacher(ExportedTeacher):
    """A compiled OpenVINO model on prepared images.

    Unless the file fixes another batch size, images go through one by one, several at once: most published
    files have a fixed batch of 1, and this way an embedding cannot depend on its batch.
    """

    kind, takes, beside = "openvino", "preprocessing precision", ("{stem}.bin",)

    def _open(self, file: str, options: TeacherOptions) -> None:
        openvino = require("openvino", extra="openvino")
        try:
            core = openvino.Core()
            model = core.read_model(file)
            inputs = model.inputs
            self._set_ports(
                [_openvino_port(each, i, "input") for i, each in enumerate(inputs)],
                [_openvino_port(each, i, "output", options.output) for i, each in enumerate(model.outputs)],
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


def _openvino_port(port: Any, index: int, kind: str, asked: str | None = None) -> Port:
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
