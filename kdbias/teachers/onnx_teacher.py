"""`onnx:FILE`: a network in ONNX, run by ONNX Runtime in the file's own precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError, first_line
from kdbias.optional import require
from kdbias.tables import fingerprints
from kdbias.teachers.exported import ExportedTeacher, Port
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.teacher import TeacherOptions, teacher_fingerprint

_TYPES = {"float": "float32", "double": "float64"}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxTeacher(ExportedTeacher):
    """An ONNX Runtime session on prepared images."""

    def __init__(self, file: str, options: TeacherOptions) -> None:
        options.refuse("onnx", preprocessing=True, device=True)
        if not Path(file).is_file():
            raise KdbiasError(f"teacher onnx:{file}: no such file")
        self.spec, self.device = f"onnx:{file}", options.device
        self.preprocessing = find_preprocessing(file, options)
        self._session = _session(file, options.device)
        inputs, outputs = (
            [Port(each.name, _type(each.type), _shape(each.shape)) for each in ports]
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )
        self._set_ports(inputs, outputs, options.output)
        self._names = [outputs[self._output].name], inputs[0].name
        content = _digest(Path(file))
        self.fingerprint = teacher_fingerprint("onnx", content, self.preprocessing, self.output)
        self.dim = self._probe_dim()

    def _infer(self, x: np.ndarray, step: int) -> list[np.ndarray]:
        outputs, name = self._names
        return [self._session.run(outputs, {name: x[i : i + step]})[0] for i in range(0, len(x), step)]


def open_onnx(rest: str, options: TeacherOptions) -> OnnxTeacher:
    """Open `onnx:REST`."""
    return OnnxTeacher(rest, options)


def _type(stated: str) -> str:
    """NumPy's name of a type as the runtime states it."""
    inner = stated.removeprefix("tensor(").removesuffix(")")
    return _TYPES.get(inner, inner)


def _shape(stated: list[Any] | None) -> tuple[int | None, ...] | None:
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


def _digest(file: Path) -> str:
    """Fingerprint of the graph and the weights beside it."""
    # Large networks keep their weights in files beside the graph.
    beside = [file.with_name(f"{file.name}{end}") for end in (".data", "_data")]
    return fingerprints.of_json([fingerprints.of_file(f) for f in (file, *beside) if f.is_file()])
