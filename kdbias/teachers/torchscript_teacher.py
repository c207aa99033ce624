"""`torchscript:FILE`: a scripted or traced torch module.

TorchScript is a program: loading the file runs the code in it, so open files from sources you trust only.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from kdbias.errors import KdbiasError, first_line
from kdbias.tables import fingerprints
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.teacher import TeacherOptions
from kdbias.teachers.torch_module import TorchTeacher


def open_torchscript(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `torchscript:REST`."""
    options.refuse(
        "torchscript", preprocessing=True, precision=True, device=True, channels_last=True, output=True
    )
    if not Path(rest).is_file():
        raise KdbiasError(f"teacher torchscript:{rest}: no such file")
    preprocessing = find_preprocessing(rest, options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # torch prefers export; files stay as they are
            module = torch.jit.load(rest, map_location=options.device).eval()
    except RuntimeError as error:
        reason = first_line(error)
        raise KdbiasError(f"teacher torchscript:{rest} is no TorchScript file ({reason})") from error
    return TorchTeacher(
        f"torchscript:{rest}",
        module,
        preprocessing,
        options,
        kind="torchscript",
        content=fingerprints.of_file(rest),
        runs_code=True,
    )
