"""A network in one file (`student.pt`): its weights, how to build it, and how to prepare its input.

The file is what `torch.save` writes for a dictionary of plain values and tensors, and it is read with
`weights_only=True`: a pickle that carries code is refused, never executed.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from xxhash import xxh3_128

from kdbias.errors import KdbiasError, first_line
from kdbias.networks import build_network
from kdbias.networks.places import StateFile, load_into
from kdbias.networks.plain_values import plain_values, why_refused
from kdbias.tables.documents import DIGEST, require_levels, require_shape
from kdbias.tables.files import MEND, absent, atomic_path

FORMAT = "kdbias-network-1"
FILE_NAME = "student.pt"
_MARK = "content "
_SHAPE = {
    "name": str,
    "kwargs": {"dim": int, "channels?": int, "image_size?": object},
    "preprocessing": {str: object},
    "provenance": {str: object},
    "state": {str: object},
}


def save_network(
    path: str | Path,
    network: torch.nn.Module,
    name: str,
    kwargs: dict[str, Any],
    preprocessing: dict[str, Any],
    doc: dict[str, Any],
) -> None:
    """Write `network` so that `load_network` rebuilds it: `build_network(name, **kwargs)` plus its weights.

    `preprocessing` is `Preprocessing.to_dict()`, `doc` any further plain values (provenance). Atomic.
    """
    content = {
        "format": FORMAT,
        "name": name,
        "kwargs": dict(kwargs),
        "preprocessing": preprocessing,
        "provenance": doc,
        "state": {key: value.detach().cpu() for key, value in network.state_dict().items()},
    }
    write_checkpoint(path, content)


def load_network(path: str | Path, device: str = "cpu") -> tuple[torch.nn.Module, dict[str, Any]]:
    """Read a network from a file that `save_network` wrote, or from the run folder that holds one.

    Returns the module (eval mode, on `device`) and {"name", "kwargs", "preprocessing", "provenance", "path"}.
    Raises KdbiasError where the file is absent, is no kdbias network, or is a pickle with code.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise KdbiasError(f"{path} holds no {FILE_NAME}: is the training run finished?")
        path = path / FILE_NAME
    content = read_checkpoint(path)
    if content.get("format") != FORMAT:
        raise KdbiasError(f"{path} is no network that kdbias saved (format {content.get('format')!r})")
    require_shape(content, _SHAPE, path)
    try:
        network = build_network(content["name"], **content["kwargs"])
        load_into(network, StateFile(str(path), content["state"]))
    except KdbiasError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise KdbiasError(f"{path} fits no {content['name']}: {first_line(error)}; {MEND}") from error
    info = {key: content[key] for key in ("name", "kwargs", "preprocessing", "provenance")}
    return network.to(device).eval(), {**info, "path": str(path)}


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a dictionary of tensors and plain values, with a digest of them, atomically.

    A full disk is an OSError.
    """
    content = {**content, DIGEST: _digest(content)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's own, raised while it closes what could not be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a dictionary of tensors and plain values that `torch.save` wrote; code in it is not executed.

    Raises KdbiasError where it is no such file, or where the digest of `write_checkpoint` says that it is
    damaged.
    """
    content = read_plain(path)
    if not isinstance(content, dict):
        raise KdbiasError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def read_plain(path: str | Path) -> Any:
    """Read whatever tensors and plain values `torch.save` wrote, as `read_checkpoint` does."""
    path = Path(path)
    if not path.is_file():
        raise absent(path)
    try:
        with plain_values():
            content = torch.load(path, map_location="cpu", weights_only=True)
        require_levels(content)
    except pickle.UnpicklingError as error:
        raise KdbiasError(
            f"{path} is not a file of plain tensors; it was not executed ({why_refused(error)})"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file torch raises whatever its bytes lead to
        raise KdbiasError(f"{path} cannot be read as a checkpoint: {why_refused(error)}") from error
    digest = content.get(DIGEST) if isinstance(content, dict) else None
    if isinstance(digest, str) and digest.startswith(_MARK):
        del content[DIGEST]
        if digest != _digest(content):
            raise KdbiasError(f"{path} is damaged: its content is not what was written; {MEND}")
    return content


def tensor_bytes(value: torch.Tensor) -> memoryview:
    """The bytes of a tensor's numbers in order, wherever it lies."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _digest(content: dict[str, Any]) -> str:
    """Of the values: tensors by type, shape and bytes, whatever memory they share."""
    digest = xxh3_128()
    _update(digest, content)
    return _MARK + digest.hexdigest()


def _update(digest: xxh3_128, value: Any) -> None:
    """Enter a nested value into the digest: tensors by dtype, shape and bytes."""
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)};".encode())
        digest.update(tensor_bytes(value))
    elif isinstance(value, dict | list | tuple):
        digest.update(f"{len(value)}{'{' if isinstance(value, dict) else '['};".encode())
        for item in (x for pair in value.items() for x in pair) if isinstance(value, dict) else value:
            _update(digest, item)
    else:
        digest.update(f"{value!r};".encode())
