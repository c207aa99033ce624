"""`onnx:FILE`: a network in ONNX, run by ONNX Runtime in the file's own precision.

The file must have one image input and at least one output of one vector an image; of several the first such
one counts. A batch size that is fixed in the file is kept to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError, first_line
from kdbias.optional import require
from kdbias.tables import fingerprints
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.teacher import Teacher, TeacherOptions, teacher_fingerprint

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxTeacher(Teacher):
    """An ONNX Runtime session on prepared images."""

    def __init__(self, file: str, options: TeacherOptions) -> None:
        options.refuse("onnx", preprocessing=True, device=True)
        if not Path(file).is_file():
            raise KdbiasError(f"teacher onnx:{file}: no such file")
        self.spec, self.device = f"onnx:{file}", options.device
        self.preprocessing = find_preprocessing(file, options)
        self._session = _session(file, options.device)
        image = self._session.get_inputs()[0]
        if len(self._session.get_inputs()) != 1 or len(image.shape) != 4 or image.type not in _DTYPES:
            given = ", ".join(f"{i.name} {i.type} {i.shape}" for i in self._session.get_inputs())
            raise KdbiasError(f"teacher {self.spec} should have one image input (b, c, h, w); it has {given}")
        self._name, self._dtype = image.name, _DTYPES[image.type]
        self._batch = image.shape[0] if isinstance(image.shape[0], int) else None
        # As ONNX has it, unless the file says otherwise: all axes may be left open.
        channels = self.preprocessing.channels
        self._channels_first = image.shape[1] == channels or image.shape[3] != channels
        self._check_size(image.shape)
        if self._dtype is np.uint8:
            self._require_plain_pixels()
        self._output = _vector_output(self._session.get_outputs(), self.spec)
        self.fingerprint = teacher_fingerprint("onnx", _digest(Path(file)), self.preprocessing)
        self.dim = self._probe_dim()

    def _check_size(self, shape: list[Any]) -> None:
        height, width = self.preprocessing.size
        channels = self.preprocessing.channels
        wanted = (channels, height, width) if self._channels_first else (height, width, channels)
        if any(isinstance(has, int) and has != want for has, want in zip(shape[1:], wanted, strict=True)):
            raise KdbiasError(
                f"teacher {self.spec} takes input of shape {shape}, the preprocessing gives {height}x{width} "
                f"(h x w) with {channels} channels"
            )

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        x = self.preprocessing.normalise_array(batch)
        if not self._channels_first:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        x = x.astype(self._dtype, copy=False)
        step = self._batch or len(x)
        outputs = [self._run(x[start : start + step], step) for start in range(0, len(x), step)]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _run(self, x: np.ndarray, step: int) -> np.ndarray:
        count = len(x)
        if self._batch and count < step:  # the last, incomplete batch of a network with a fixed one
            x = np.concatenate([x, np.zeros((step - count, *x.shape[1:]), x.dtype)])
        output = self._session.run([self._output], {self._name: x})[0]
        if output.ndim > 2:
            output = output.reshape(len(output), -1)
        return output[:count] if self._batch else output


def open_onnx(rest: str, options: TeacherOptions) -> OnnxTeacher:
    """Open `onnx:REST`."""
    return OnnxTeacher(rest, options)


def _session(file: str, device: str) -> Any:
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


def _vector_output(outputs: list[Any], spec: str) -> str:
    for output in outputs:
        shape = output.shape
        if "float" in output.type and (len(shape) == 2 or (len(shape) == 4 and list(shape[2:]) == [1, 1])):
            return output.name
    given = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
    raise KdbiasError(f"teacher {spec} has no output of one vector an image (b, d); it has {given}")


def _digest(file: Path) -> str:
    # Large networks keep their weights in files beside the graph.
    beside = [file.with_name(f"{file.name}{end}") for end in (".data", "_data")]
    return fingerprints.of_json([fingerprints.of_file(f) for f in (file, *beside) if f.is_file()])
