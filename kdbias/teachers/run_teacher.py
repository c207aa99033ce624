"""`run:RUN_DIR`: a network that `kdbias train` made, as a teacher or for evaluation."""

from __future__ import annotations

from pathlib import Path

from kdbias.errors import KdbiasError
from kdbias.networks.saved import load_network
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.teachers.teacher import TeacherOptions
from kdbias.teachers.torch_module import TorchTeacher


def open_run(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `run:REST`, REST being the run's folder or its `student.pt`; the preprocessing is stored in it."""
    options.refuse("run", precision=True, device=True, channels_last=True, compile=True)
    if not Path(rest).exists():
        raise KdbiasError(f"run:{rest}: no such file or folder; run: names what kdbias train wrote")
    network, info = load_network(rest, device="cpu")
    preprocessing = Preprocessing.from_dict(info["preprocessing"])
    return TorchTeacher(f"run:{rest}", network, preprocessing, options, kind=f"run:{info['name']}")
