"""Reading published weights from a local file, without executing anything in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdbias.errors import KdbiasError, first_line
from kdbias.networks.saved import read_checkpoint
from kdbias.optional import require

_WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "net")
_PREFIXES = ("module.", "_orig_mod.")


def read_state(path: str, or_one_of: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt`/`.pth`, `.npz` or `.safetensors` file by name.

    A training checkpoint that holds the weights under a usual key ("state_dict", "model", ...) is unwrapped,
    and the prefixes that data-parallel and compiled training add are dropped.
    `or_one_of`: what else could have been meant, for the message where there is no such file.
    """
    file = Path(path)
    if not file.is_file():
        known = f"; published weights: {', '.join(or_one_of)}" if or_one_of else ""
        raise KdbiasError(f"no file of weights {path!r}{known}")
    if file.suffix == ".npz":
        content: Mapping[str, Any] = _read_npz(file)
    elif file.suffix == ".safetensors":
        content = require("safetensors.torch", package="safetensors").load_file(str(file))
    else:
        content = read_checkpoint(file)
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    state = {_stripped(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not state:
        raise KdbiasError(f"{path} holds no tensors; its keys are {', '.join(map(str, list(content)[:6]))}")
    return state


def random_seed(weights: str | None) -> int | None:
    """The seed of `random[:SEED]` (0 where none is given), or None where `weights` is something else."""
    kind, _, seed = (weights or "").partition(":")
    if kind != "random":
        return None
    if seed and not seed.isdigit():
        raise KdbiasError(f"teacher weights {weights!r}: the seed of random:SEED should be a whole number")
    return int(seed or 0)


def load_into(network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str) -> None:
    """Load `state` into `network`; entries it has no place for (a classifier) are left out, gaps are refused.

    Raises KdbiasError naming keys that are missing or whose shapes differ.
    """
    own = network.state_dict()
    counters = "num_batches_tracked"
    missing = [k for k in own if k not in state and not k.endswith(counters)]
    if missing:
        raise KdbiasError(
            f"{path} lacks {len(missing)} of the network's {len(own)} tensors ({', '.join(missing[:3])}...); "
            "are these weights of this network?"
        )
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        k = wrong[0]
        raise KdbiasError(
            f"{path}: {k} has shape {tuple(state[k].shape)}, the network needs {tuple(own[k].shape)}"
            f" ({len(wrong)} tensors differ)"
        )
    network.load_state_dict({k: state[k] for k in own if k in state}, strict=False)


def _read_npz(file: Path) -> dict[str, torch.Tensor]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {k: torch.from_numpy(np.array(arrays[k])) for k in arrays.files}
    except (ValueError, OSError, TypeError) as error:
        raise KdbiasError(f"{file} is not a file of plain arrays ({first_line(error)})") from error


def _stripped(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key
