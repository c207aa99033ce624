"""`python:PACKAGE.MODULE:FACTORY` or `python:FILE.py:FACTORY`: a teacher in a few lines of your own.

This imports and runs the named code. `FACTORY(device)`, or `FACTORY()`, returns one of

* `(network, preprocessing)`: `network` maps normalised float32 tensors (b, c, h, w) on `device` to (b, d); a
  torch module is put into eval mode; `preprocessing` is a `Preprocessing` or a dictionary of its fields;
* an object with `embed(batch)`, uint8 array (b, h, w, c) -> float array (b, d), and `preprocessing`.

Either may give several outputs, as a tuple or a dictionary: then --output chooses.

A resumed run must know whether the teacher is still the same. The weights of a torch module, the source file
and the factory's name count by themselves; anything else should be named by an attribute `fingerprint` (any
string).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError, first_line
from kdbias.tables import fingerprints
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.teachers.teacher import Teacher, TeacherOptions


class EmbeddingObject(Teacher):
    """An object with `embed` and `preprocessing`, by the protocol above."""

    runs_code = True

    def __init__(self, spec: str, thing: Any, source: str, options: TeacherOptions) -> None:
        options.refuse("python (with an embed method)", "device")
        self.spec, self.device, self.precision = spec, options.device, options.precision
        self._asked = options.output
        self.preprocessing = _preprocessing(thing.preprocessing, spec)
        content = f"{source} {getattr(thing, 'fingerprint', '')}"
        self._call: Callable[[np.ndarray], Any] = thing.embed
        self._identify("python", content)

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        with _of_its_author(self.spec, "embed()"):
            output = self._call(batch)
        output = self._chosen(np.asarray(output) if isinstance(output, list) else output)
        if hasattr(output, "detach"):
            output = output.detach().cpu().numpy()
        return np.asarray(output)


def open_python(rest: str, options: TeacherOptions) -> Teacher:
    """Open `python:REST`."""
    spec = f"python:{rest}"
    where, colon, name = rest.rpartition(":")
    if not colon or not where or not name:
        raise KdbiasError(
            f"teacher {spec!r}: should be python:package.module:factory or python:file.py:factory"
        )
    with _of_its_author(spec, f"importing {where}"):
        module = _import(where, spec)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise KdbiasError(f"teacher {spec}: {where} has no function {name!r}")
    with _of_its_author(spec, f"{name}()"):
        made = factory(*_arguments(factory, name, options.device, spec))
    source = f"{fingerprints.of_file(module.__file__) if module.__file__ else where} {name}"
    if hasattr(made, "embed") and hasattr(made, "preprocessing"):
        return EmbeddingObject(spec, made, source, options)
    if isinstance(made, tuple) and len(made) == 2 and callable(made[0]):
        return _from_network(spec, made, source, options)
    raise KdbiasError(
        f"teacher {spec}: {name}() gave {type(made).__name__}; it should give (network, preprocessing) "
        "or an object with embed() and preprocessing"
    )


def _arguments(factory: Callable[..., Any], name: str, device: str, spec: str) -> tuple[str, ...]:
    """The device, or nothing for a factory that takes nothing: a torch module is moved there anyway.

    Raises:
        KdbiasError: it needs more than a device.
    """
    try:
        signature = inspect.signature(factory)
    except ValueError:  # of compiled code, which has none
        return (device,)
    for arguments in ((device,), ()):
        with contextlib.suppress(TypeError):
            signature.bind(*arguments)
            return arguments
    raise KdbiasError(
        f"teacher {spec}: {name}{signature} cannot be called as {name}(device), with a device such as "
        f"{device!r}"
    )


@contextlib.contextmanager
def _of_its_author(spec: str, where: str) -> Iterator[None]:
    """Whatever the user's own code raises is told as its fault, with file and line."""
    try:
        yield
    except (KdbiasError, OSError, MemoryError):
        raise
    except Exception as error:
        calls = traceback.extract_tb(error.__traceback__)[1:]
        own = [call for call in calls if not re.search(r"^<|/site-packages/", call.filename)]
        at = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        raise KdbiasError(
            f"teacher {spec}: {where} raised {type(error).__name__}: {first_line(error)}{at}; --debug shows "
            "the calls"
        ) from error


def _from_network(spec: str, made: tuple[Any, Any], source: str, options: TeacherOptions) -> Teacher:
    """A teacher from what the user's function made: a network and its preprocessing."""
    import torch

    from kdbias.teachers.torch_module import TorchTeacher, state_digest

    options.refuse("python", "precision device channels_last compile")
    network, fields = made
    weights = state_digest(network) if isinstance(network, torch.nn.Module) else ""
    own = _preprocessing(fields, spec)
    content = f"{source} {weights} {getattr(network, 'fingerprint', '')}"
    return TorchTeacher(spec, network, own, options, kind="python", content=content, runs_code=True)


def _preprocessing(fields: Any, spec: str) -> Preprocessing:
    """Preprocessing as given, or from its fields."""
    if isinstance(fields, Preprocessing):
        return fields
    if isinstance(fields, dict):
        return Preprocessing.from_dict(fields)
    raise KdbiasError(
        f"teacher {spec}: its preprocessing is {type(fields).__name__}, "
        "should be a kdbias Preprocessing or a dictionary of its fields"
    )


def _import(where: str, spec: str) -> ModuleType:
    """The module of a name or a .py file."""
    if where.endswith(".py"):
        file = Path(where)
        if not file.is_file():
            raise KdbiasError(f"teacher {spec}: no file {where}")
        found = importlib.util.spec_from_file_location(file.stem, file)
        if found is None or found.loader is None:
            raise KdbiasError(f"teacher {spec}: {where} cannot be imported")
        module = importlib.util.module_from_spec(found)
        sys.modules.setdefault(file.stem, module)
        found.loader.exec_module(module)
        return module
    # The installed script does not look for modules where the user stands; `python -m` would.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not (where == error.name or where.startswith(f"{error.name}.")):
            raise
        raise KdbiasError(
            f"teacher {spec}: no module {error.name!r} in {here} or among the installed"
        ) from None
