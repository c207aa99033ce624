"""Teachers: what turns images into embeddings. A new back-end is one file and one line in `spec.KINDS`.

A teacher is named by a spec, `KIND:REST`; `open_teacher` opens it. Nothing here imports torch until a teacher
that needs it is opened.
"""

from __future__ import annotations

import importlib

from kdbias.errors import KdbiasError
from kdbias.teachers.preprocessing import Preprocessing, load_preprocessing
from kdbias.teachers.spec import KINDS, PRECOMPUTED, parse_spec
from kdbias.teachers.teacher import Teacher, TeacherOptions

__all__ = ["KINDS", "Preprocessing", "Teacher", "TeacherOptions", "load_preprocessing", "open_teacher"]


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
    if spec.startswith(f"{PRECOMPUTED}:"):
        raise KdbiasError(f"{spec} is a file of embeddings, no network: it serves kdbias embed only")
    kind, rest = parse_spec(spec)
    if isinstance(preprocessing, str):
        from kdbias.teachers.side_car import named_preprocessing

        preprocessing = named_preprocessing(preprocessing)
    options = TeacherOptions(device, precision, preprocessing, channels_last, compile, output)
    module, _, function = KINDS[kind][0].partition(":")
    return getattr(importlib.import_module(f"kdbias.teachers.{module}"), function)(rest, options)
