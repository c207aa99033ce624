"""The demo's teacher, whose weights ship with the package (``teacher.npz``).

Training comes out a little different on each kind of CPU, and every figure of the demo is measured in the
teacher's space: with the same weights everywhere these figures are the same everywhere, up to rounding.
Arrays of two or more axes are int8, with a float32 scale for each of their first axis under ``NAME/scale``.
``benchmarks/demo_teacher.py`` made the file.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

FILE = "teacher.npz"
NETWORK: dict[str, Any] = {"dim": 64, "channels": 1, "image_size": [28, 28]}
SOURCE = {"made_by": "benchmarks/demo_teacher.py", "trained_on": "the 4,000 digits of split=train, by label"}


def write_teacher(folder: Path) -> None:
    """Write the teacher as ``folder/student.pt``, the same file that ``kdbias train`` leaves."""
    import torch

    from kdbias.networks import build_network
    from kdbias.networks.saved import FILE_NAME, save_network
    from kdbias.teachers.preprocessing import Preprocessing

    network = build_network("convnet", **NETWORK)
    state = {name: torch.from_numpy(values) for name, values in stored_state().items()}
    network.load_state_dict(state)
    preparing = Preprocessing((28, 28), color="L", mean=(127.5,), std=(127.5,)).to_dict()
    folder.mkdir(parents=True, exist_ok=True)
    save_network(folder / FILE_NAME, network, "convnet", NETWORK, preparing, SOURCE)


def stored_state() -> dict[str, Any]:
    """The network's state as NumPy arrays, float32 where weights."""
    import numpy as np

    with (files("kdbias.demonstration") / FILE).open("rb") as file, np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    scales = {name: arrays.pop(f"{name}/scale") for name in list(arrays) if f"{name}/scale" in arrays}
    for name, scale in scales.items():
        arrays[name] = arrays[name] * scale.reshape(-1, *[1] * (arrays[name].ndim - 1))
    return arrays
