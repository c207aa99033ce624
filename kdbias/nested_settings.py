"""Settings within settings: a field that is a table of a file, or several, each with a name of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kdbias.errors import KdbiasError
from kdbias.settings import Settings, option

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, kw_only=True)
class Named(Settings):
    """The settings of one of several tables, [FIELD.NAME] in a file; a folder may be named alike."""

    name: str = ""  # type: ignore[misc]


_S = TypeVar("_S", bound=Settings)
_N = TypeVar("_N", bound=Named)


def keys(text: str, default: Any = dict) -> Any:
    """A field for a table whose keys are another stage's options; that stage checks them."""
    return option(default, text, table=lambda value, place: dict(_mapping(value, place)))


def table(kind: type[_S], text: str) -> Any:
    """A field for one table of this kind, or None."""
    return option(None, text, table=lambda value, place: _read(kind, value, place))


def tables(kind: type[_N], text: str, default: Any = dict) -> Any:
    """A field for tables of this kind by their names; those of `default` where there are none."""
    return option(default, text, table=lambda value, place: _by_name(kind, _mapping(value, place), place))


def _by_name(kind: type[_N], given: Mapping[str, Any], place: str) -> dict[str, _N]:
    """Settings of each named table."""
    found = {}
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            raise KdbiasError(f"{place}: {name!r} is no name; use letters, digits and . _ + -")
        found[name] = _read(kind, value, f"{place}.{name}")
        object.__setattr__(found[name], "name", name)
    return found


def _read(kind: type[_S], value: Any, place: str) -> _S:
    """Settings of a table; those that are settings already, as they are."""
    return value if isinstance(value, kind) else kind.of(_mapping(value, place), place)


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    """The value, which must be a table."""
    if not isinstance(value, Mapping):
        raise KdbiasError(f"{place} is {value!r}, should be a table")
    return value
