"""How a teacher is named, `KIND:REST`, and what of it can be refused before a library is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from kdbias.errors import KdbiasError
from kdbias.networks import of_libraries, own_like, require_network
from kdbias.tables.files import nearest_path, refuse_special
from kdbias.wording import did_you_mean, nearest, similar

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
_FILES = ("onnx", "openvino", "torchscript")
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".tar")
_OF_SUFFIX = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".npy": PRECOMPUTED,
    ".npz": PRECOMPUTED,
    ".parquet": PRECOMPUTED,
}


def parse_spec(spec: str) -> tuple[str, str]:
    """(kind, rest) of a spec; a folder that `kdbias train` wrote may be named alone.

    Raises:
        KdbiasError: an unknown kind, no such file, or no network of kdbias's of that name. What a library
            alone knows, its networks' names, is left to it.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in (*KINDS, PRECOMPUTED) and Path(spec).is_dir():
        kind, colon, rest = "run", ":", spec
    if kind not in (*KINDS, PRECOMPUTED) or not colon or not rest:
        known = ", ".join(form for _, form in KINDS.values())
        meant = did_you_mean(_meant(spec))
        if not colon and Path(spec).suffix.lower() in _WEIGHTS:
            meant = f"; {of_what(spec)}"
        raise KdbiasError(f"unknown teacher {spec!r}; known: {known}, {PRECOMPUTED}:FILE{meant}")
    refuse_special(rest.rpartition("@")[2])
    _require_parts(kind, rest)
    return kind, rest


def of_what(file: str) -> str:
    """How a file that torch wrote may be meant: weights alone need the network that they are of."""
    named = ", ".join(f"{kind}:NAME@{file}" for kind in ("torchvision", "timm", "kdbias"))
    return f"weights need the network that they are of: {named}; a program is torchscript:{file}"


def placed_spec(spec: str) -> str:
    """The spec with the whole path of its file or folder, as it is read from any folder; a module's stays.

    Raises:
        KdbiasError: as `parse_spec`.
    """
    kind, rest = parse_spec(spec)
    name, mark, last = rest.rpartition(":" if kind == "python" else "@")
    if kind in (*_FILES, PRECOMPUTED, "run"):
        return f"{kind}:{os.path.abspath(rest)}"
    if kind == "python":
        return f"{kind}:{os.path.abspath(name)}:{last}" if name.endswith(".py") else spec
    is_file = mark and Path(split_choice(last)[0]).is_file()
    return f"{kind}:{name}@{os.path.abspath(last)}" if is_file else spec


def split_weights(rest: str) -> tuple[str, str | None]:
    """`NAME@WEIGHTS` -> (NAME, WEIGHTS or None)."""
    name, at, weights = rest.partition("@")
    if not name or (at and not weights):
        raise KdbiasError(f"teacher {rest!r}: should be NAME or NAME@WEIGHTS")
    return name, weights or None


def split_choice(path: str) -> tuple[str, str | None]:
    """`FILE#PART` -> (FILE, PART); a file may have a # in its own name."""
    file, mark, part = path.rpartition("#")
    return (path, None) if not mark or not part or Path(path).is_file() else (file, part)


def require_weights(weights: str, or_one_of: Sequence[str]) -> None:
    """Refuse weights that are no file; `or_one_of`: what else could have been meant."""
    file = split_choice(weights)[0]
    if not Path(file).is_file():
        near = nearest(weights, or_one_of) or nearest_path(file)
        raise KdbiasError(f"no file of weights {weights!r}; published weights: {', '.join(or_one_of)}{near}")


def _require_parts(kind: str, rest: str) -> None:
    """Refuse files that are not there and names that kdbias itself does not know."""
    if kind == "run" and not Path(rest).exists():
        raise KdbiasError(
            f"run:{rest}: no such file or folder; run: names what kdbias train wrote{nearest_path(rest)}"
        )
    if kind == PRECOMPUTED and not Path(rest).exists():
        raise KdbiasError(f"{PRECOMPUTED}:{rest}: no such file{nearest_path(rest)}")
    if kind in _FILES and not Path(rest).is_file():
        raise KdbiasError(f"teacher {kind}:{rest}: no such file{nearest_path(rest)}")
    if kind not in ("torchvision", "timm", "kdbias"):
        return
    name, weights = split_weights(rest)
    if kind == "kdbias":
        require_network(name)
        if weights is None:
            raise KdbiasError(f"teacher kdbias:{rest}: name its weights, kdbias:{name}@FILE")
    # Of a word without a dot or folder torchvision knows whether it is a published set.
    if weights is None or _is_drawn(weights) or (kind == "torchvision" and re.fullmatch(r"\w+", weights)):
        return
    require_weights(weights, [*["DEFAULT"] * (kind == "torchvision"), "random"])


def _is_drawn(weights: str) -> bool:
    """Whether weights are `random[:SEED]`."""
    return weights.partition(":")[0] == "random"


def _meant(spec: str) -> list[str]:
    """What a spec of no known kind may have meant."""
    kind, colon, rest = spec.partition(":")
    if colon:
        return [f"{near}:{rest}" for near in similar(kind, [*KINDS, PRECOMPUTED])] if rest else []
    if near := _OF_SUFFIX.get(Path(spec).suffix.lower()):
        return [f"{near}:{spec}"]
    name = spec.partition("@")[0]
    return [f"kdbias:{near}@FILE" for near in own_like(name)] or of_libraries(name)
