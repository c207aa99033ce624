"""Teachers: what turns images into embeddings. A new back-end is one file and one line in `KINDS`.

A teacher is named by a spec, `KIND:REST`; `open_teacher` opens it. Nothing here imports torch until a teacher
that needs it is opened.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from kdbias.errors import KdbiasError
from kdbias.tables.files import refuse_special
from kdbias.teachers.preprocessing import Preprocessing, load_preprocessing
from kdbias.teachers.teacher import Teacher, TeacherOptions

__all__ = ["KINDS", "Preprocessing", "Teacher", "TeacherOptions", "load_preprocessing", "open_teacher"]

# kind -> "module:maker" in this folder, maker(rest, options) being a Teacher, and how its specs are written.
KINDS: dict[str, tuple[str, str]] = {
    "torchvision": ("published:open_torchvision", "torchvision:NAME[@WEIGHTS|@FILE|@random[:SEED]]"),
    "run": ("kdbias_teacher:open_run", "run:RUN_DIR"),
    "timm": ("published:open_timm", "timm:NAME[@FILE|@random[:SEED]]"),
    "kdbias": ("kdbias_teacher:open_kdbias", "kdbias:NAME@FILE"),
    "onnx": ("exported:OnnxTeacher", "onnx:FILE"),
    "openvino": ("exported:OpenVinoTeacher", "openvino:FILE.xml"),
    "torchscript": ("torch_module:open_torchscript", "torchscript:FILE"),
    "python": ("python_teacher:open_python", "python:package.module:factory"),
}
PRECOMPUTED = "precomputed"


def open_teacher(
    spec: str,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    preprocessing: str | Preprocessing | None = None,
    channels_last: bool | None = None,
    compile: bool = False,
    output: str | None = None,
) -> Teacher:
    """Open a teacher from its spec, `KIND:REST`; a folder that `kdbias train` wrote may be named alone.

    device         "cpu" or "cuda:N"
    precision      "fp32", "bf16" or "fp16"
    preprocessing  a `Preprocessing`, a TOML file with a [preprocessing] table, or a shipped name
    channels_last, compile, output   see `TeacherOptions`
    Raises KdbiasError for an unknown kind, a missing library or file, an option the back-end cannot honour.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in KINDS and Path(spec).is_dir():
        kind, colon, rest = "run", ":", spec
    if kind == PRECOMPUTED:
        raise KdbiasError(f"{spec} is a file of embeddings, no network: it serves kdbias embed only")
    if kind not in KINDS or not colon or not rest:
        known = ", ".join(form for _, form in KINDS.values())
        raise KdbiasError(f"unknown teacher {spec!r}; known: {known}, precomputed:FILE")
    refuse_special(rest.rpartition("@")[2])
    if isinstance(preprocessing, str):
        from kdbias.teachers.side_car import named_preprocessing

        preprocessing = named_preprocessing(preprocessing)
    options = TeacherOptions(device, precision, preprocessing, channels_last, compile, output)
    module, _, function = KINDS[kind][0].partition(":")
    return getattr(importlib.import_module(f"kdbias.teachers.{module}"), function)(rest, options)
