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

TEMPLATE = """\
[preprocessing]
size = [112, 112]    # height, width
color = "RGB"        # or "BGR", "L"
mean = [127.5]       # of values from 0 to 255; one number, or one a channel
std = [127.5]
"""
"""A side-car to begin with."""
_SHIPPED = resources.files("kdbias.data_manifests") / "teachers"


def find_preprocessing(file: str, options: TeacherOptions, shipped: str | None = None) -> Preprocessing:
    """The preprocessing for the model in `file`.

    `shipped` names a description to fall back on. Raises KdbiasError saying what to write where none is.
    """
    if options.preprocessing is not None:
        return options.preprocessing
    path = Path(file)
    beside = [f for f in (path.with_name(f"{path.name}.toml"), path.with_suffix(".toml")) if f.is_file()]
    for side_car in beside:
        # `model.toml` may be anything: what does not hold the table is none of ours.
        if isinstance(read_toml(side_car).get("preprocessing"), dict):
            return load_preprocessing(side_car)
    for name in (path.stem, shipped):
        if name and name in shipped_names():
            return shipped_preprocessing(name)
    other = f" ({' and '.join(file.name for file in beside)} beside it: no table [preprocessing])"
    error = KdbiasError(
        f"nothing says what the input of {path.name} should be{other if beside else ''}; write "
        f"{beside[0].name if beside else f'{path.stem}.toml'} beside it, or give --preprocessing FILE.toml, "
        "with the lines below, made true of your network"
    )
    error.add_note(TEMPLATE)
    raise error


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
