"""Where the preprocessing of a bare model file comes from.

A model file (ONNX, OpenVINO, TorchScript, a state dict) does not say what its input means. In this order:
--preprocessing; a side-car beside it (`model.onnx.toml` or `model.toml`); a description that ships with
kdbias in `data_manifests/teachers/`, found by the model file's name. Each is a TOML file with a table
[preprocessing].
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from kdbias.errors import KdbiasError
from kdbias.tables.documents import read_toml
from kdbias.teachers.preprocessing import Preprocessing, load_preprocessing
from kdbias.teachers.teacher import TeacherOptions

_SHIPPED = resources.files("kdbias.data_manifests") / "teachers"


def find_preprocessing(file: str, options: TeacherOptions, shipped: str | None = None) -> Preprocessing:
    """The preprocessing for the model in `file`.

    `shipped` names a description to fall back on. Raises KdbiasError saying what to write where none is.
    """
    if options.preprocessing is not None:
        return options.preprocessing
    path = Path(file)
    for beside in (path.with_name(f"{path.name}.toml"), path.with_suffix(".toml")):
        if _describes_preprocessing(beside):
            return load_preprocessing(beside)
    for name in (path.stem, shipped):
        if name and name in shipped_names():
            return shipped_preprocessing(name)
    raise KdbiasError(
        f"nothing says what the input of {path.name} should be; write {path.stem}.toml beside it, or give "
        "--preprocessing FILE.toml, with: [preprocessing] size = [112, 112], color = 'RGB' or 'BGR', "
        "mean = [127.5], std = [127.5] (in units of 0-255)"
    )


def named_preprocessing(name: str) -> Preprocessing:
    """What --preprocessing names: a TOML file, or a description that ships with kdbias."""
    if name in shipped_names():
        return shipped_preprocessing(name)
    if not name.endswith(".toml") and not Path(name).exists():
        raise KdbiasError(
            f"--preprocessing {name!r} is neither a file nor one of {', '.join(shipped_names())}"
        )
    return load_preprocessing(name)


def shipped_names() -> list[str]:
    """Names of the descriptions in `data_manifests/teachers/`."""
    found = _SHIPPED.iterdir() if _SHIPPED.is_dir() else ()
    return sorted(f.name.removesuffix(".toml") for f in found if f.name.endswith(".toml"))


def shipped_preprocessing(name: str) -> Preprocessing:
    """The [preprocessing] of `data_manifests/teachers/NAME.toml`."""
    with resources.as_file(_SHIPPED / f"{name}.toml") as file:
        return load_preprocessing(file)


def _describes_preprocessing(file: Path) -> bool:
    """Whether a TOML file has a table of preprocessing."""
    # `model.toml` may be anything; what does not hold the table is none of ours.
    try:
        return isinstance(read_toml(file).get("preprocessing"), dict)
    except (OSError, KdbiasError):
        return False
