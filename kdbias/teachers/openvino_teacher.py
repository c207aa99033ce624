"""`openvino:FILE.xml` (or `.onnx`): a network run by OpenVINO on the CPU.

Images go through one by one, several at once: most published files have a fixed batch of 1, and this way an
embedding cannot depend on its batch. The precision is always stated to the runtime, because on CPUs with
bfloat16 its own choice is bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.optional import require
from kdbias.tables import fingerprints
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.teacher import Teacher, TeacherOptions, teacher_fingerprint

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoTeacher(Teacher):
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
            self._set_input(model)
            settings = {
                "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
                "PERFORMANCE_HINT": "THROUGHPUT",
            }
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
        self.fingerprint = teacher_fingerprint("openvino", content, self.preprocessing)
        self.dim = self._probe_dim()

    def _set_input(self, model: Any) -> None:
        height, width = self.preprocessing.size
        wanted = [1, self.preprocessing.channels, height, width]
        inputs = model.inputs
        shape, number = inputs[0].get_partial_shape(), inputs[0].get_element_type()
        is_bytes = number.get_type_name() == "u8"
        if len(inputs) != 1 or shape.rank.get_length() != 4 or not (number.is_real() or is_bytes):
            raise KdbiasError(
                f"teacher {self.spec} should have one image input (b, c, h, w); it has {inputs}"
            )
        if is_bytes:
            self._require_plain_pixels()
        if shape.is_dynamic:
            model.reshape({inputs[0]: wanted})
        elif list(shape.to_shape()) != wanted:
            raise KdbiasError(
                f"teacher {self.spec} takes input of shape {list(shape.to_shape())}, the preprocessing gives "
                f"{wanted}"
            )

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        x = self.preprocessing.normalise_array(batch)
        at_once = len(self._requests)
        outputs = []
        for i in range(len(x)):
            if i >= at_once:
                outputs.append(self._output(i - at_once))
            self._requests[i % at_once].start_async({0: x[i : i + 1]})
        outputs += [self._output(i) for i in range(len(outputs), len(x))]
        return np.stack(outputs)

    def _output(self, i: int) -> np.ndarray:
        """Wait for image i of the batch. Copied: the request's memory is used again for a later image."""
        request = self._requests[i % len(self._requests)]
        request.wait()
        return request.get_output_tensor(0).data.reshape(-1).astype(np.float32, copy=True)


def open_openvino(rest: str, options: TeacherOptions) -> OpenVinoTeacher:
    """Open `openvino:REST`."""
    return OpenVinoTeacher(rest, options)
