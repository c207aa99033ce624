"""Which device a stage computes on, in which of how many processes, in how many threads and bytes."""

import os
import re

from kdbias.errors import KdbiasError
from kdbias.wording import counted

MOST_PARALLEL = 4096
"""Threads or processes that one machine may be asked for."""
LEAST_MEMORY = 256 << 20
"""Bytes that a measurement may take whatever the data and the budget: 152 to 178 MiB were measured."""
_UNITS = {"": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", 1)
    for suffix, base in {"": 1000, "i": 1024}.items()
}


def resolve_device(name: str = "auto") -> str:
    """Turn ``auto | cpu | cuda | cuda:N`` into the device that will be used.

    ``auto`` takes the first CUDA device where there is one, else the CPU. Asking for CUDA without one is an
    error: a run never falls back to the CPU unasked.
    """
    if name == "cpu":
        return "cpu"
    if name != "auto" and not re.fullmatch(r"cuda(:\d+)?", name):
        raise KdbiasError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if count else "cpu"
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise KdbiasError(
            f"device {name!r} was asked for, but torch sees {counted(count, 'CUDA device')}; use --device cpu"
        )
    return f"cuda:{index}"


def process_device(device: str, world: int) -> str:
    """The device of one of ``world`` processes, cuda:LOCAL_RANK where several share a machine."""
    found = resolve_device(device)
    if not found.startswith("cuda"):
        return found
    import torch

    if device in ("auto", "cuda") and world > 1:
        if "LOCAL_RANK" in os.environ:
            found = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        elif "SLURM_LOCALID" in os.environ:  # srun may show each process its own GPU alone
            found = f"cuda:{int(os.environ['SLURM_LOCALID']) % torch.cuda.device_count()}"
    torch.cuda.set_device(found)  # else pinned memory takes a context on the first GPU, in every process
    return found


def rank_and_world() -> tuple[int, int]:
    """(RANK, WORLD_SIZE) as torchrun and most launchers set them; (0, 1) without a launcher."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise KdbiasError(
            f"RANK={os.environ.get('RANK')} and WORLD_SIZE={os.environ.get('WORLD_SIZE')} do not fit together"
        )
    return rank, world


def parse_bytes(text: str | int) -> int:
    """Turn ``"4GiB"``, ``"512MB"`` or a plain number of bytes into an int > 0."""
    if isinstance(text, int) and not isinstance(text, bool):
        value = float(text)
    else:
        match = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]i?)?b?\s*", str(text).lower())
        try:
            value = float(match[1]) * _UNITS[match[2] or ""] if match else 0.0
        except ValueError:
            value = 0.0
    if value < 1:
        raise KdbiasError(f"{text!r} is not an amount of memory; write for example 4GiB or 512MiB")
    return int(value)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine itself, has no memory left."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch.cuda's
    return known or "can't allocate memory" in str(error)
