"""Reading published weights from a local file, without executing anything in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdbias.errors import KdbiasError, first_line
from kdbias.networks.places import StateFile
from kdbias.networks.saved import read_checkpoint
from kdbias.optional import require
from kdbias.teachers.spec import require_weights, split_choice


def read_state(path: str, or_one_of: Sequence[str]) -> StateFile:
    """The tensors of a `.pt`/`.pth`, `.npz` or `.safetensors` file.

    `or_one_of`: what else could have been meant, for the message where there is no such file.
    """
    name, chosen = split_choice(path)
    file = Path(name)
    require_weights(path, or_one_of)
    if file.suffix == ".npz":
        content: Mapping[Any, Any] = _read_npz(file)
    elif file.suffix == ".safetensors":
        content = _read_safetensors(file)
    else:
        content = read_checkpoint(file)
    return StateFile(name, content, chosen)


@contextlib.contextmanager
def drawn_weights(weights: str | None) -> Iterator[int | None]:
    """Draw the weights of networks that are built inside by the seed of `random[:SEED]` (0 without SEED).

    Gives the seed, None where `weights` is something else. The caller's random numbers are not disturbed.
    """
    kind, _, seed = (weights or "").partition(":")
    if kind == "random" and seed and not seed.isdigit():
        raise KdbiasError(f"teacher weights {weights!r}: the seed of random:SEED should be a whole number")
    drawn = int(seed or 0) if kind == "random" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(drawn or 0)
        yield drawn


def _read_npz(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .npz, by name."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {k: torch.from_numpy(np.array(arrays[k])) for k in arrays.files}
    except (ValueError, OSError, TypeError) as error:
        raise KdbiasError(f"{file} is not a file of plain arrays ({first_line(error)})") from error


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors, by name."""
    try:
        return require("safetensors.torch", package="safetensors").load_file(str(file))
    except KdbiasError:
        raise
    except Exception as error:  # the library has an error class of its own for each kind of damage
        raise KdbiasError(f"{file} is not a safetensors file ({first_line(error)})") from error
