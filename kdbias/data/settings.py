"""How a user, or a description, says which columns, parts and rows of a data set to read.

Imports nothing heavy: the stages that read images share `Reading` as options of their commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdbias.settings import Settings, option

COLUMNS = ("id_column", "label_column", "path_column", "image_column")
"""The options that name a column."""


@dataclass(frozen=True, kw_only=True)
class Reading(Settings):
    """The options of `kdbias.open_data`."""

    name = "data"

    id_column: str | None = option(
        None, "column with unique sample ids", metavar="NAME", shown="sample_id, else path"
    )
    label_column: str | None = option(
        None, "column with the identity or class", metavar="NAME", shown="label"
    )
    path_column: str | None = option(None, "column with image paths", metavar="NAME", shown="path")
    image_column: str | None = option(None, "column with image bytes", metavar="NAME", shown="image")
    where: tuple[str, ...] = option(
        (), "keep matching samples, e.g. split=train; repeatable", metavar="COLUMN=VALUE"
    )
    root: str | None = option(
        None, "data root for relative paths", path=True, metavar="DIR", shown="the data's own"
    )

    @property
    def reading(self) -> dict[str, Any]:
        """These options by name, as `kdbias.open_data` takes them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Reading)}


def _require(fits: bool, value: Any, what: str) -> None:
    """Raise ValueError that says what a value should be."""
    if not fits:
        raise ValueError(f"is {value!r}, should be a {what}")


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts; a lone text is none."""
    fits = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    _require(fits, value, "list of texts")
    return tuple(value)


def table_of(
    kind: type, what: str, known: tuple[str, ...] = (), needed: tuple[str, ...] = ()
) -> Callable[[Any], Mapping[str, Any]]:
    """What reads a table of values of one kind, of the known keys alone (of any, where none are)."""

    def parse(value: Any) -> Mapping[str, Any]:
        fits = isinstance(value, Mapping) and all(type(item) is kind for item in value.values())
        fits = fits and set(needed) <= set(value) and (not known or set(value) <= set(known))
        _require(fits, value, f"table of {what}")
        return value

    return parse


_texts_of_list = table_of(str, "texts, a file among them", needed=("file",))


def _list(value: Any) -> Mapping[str, Any]:
    """One [[lists]] entry, checked."""
    columns = texts(value.get("columns", ())) if isinstance(value, Mapping) else ()
    _texts_of_list({**value, "columns": "".join(columns)} if columns else value)
    return value


def _tables(of: Callable[[Any], Mapping[str, Any]]) -> Callable[[Any], tuple[Mapping[str, Any], ...]]:
    """What reads a list of tables."""

    def parse(value: Any) -> tuple[Mapping[str, Any], ...]:
        _require(isinstance(value, list | tuple), value, "list of tables")
        return tuple(map(of, value))

    return parse


@dataclass(frozen=True, kw_only=True)
class Parts(Settings):
    """What only a description says of a data set's columns and parts."""

    groups: tuple[str, ...] | None = option(None, "columns kept as groups", parse=texts, shown="all")
    label_names: tuple[str, ...] | None = option(
        None, "names of the integer labels 0, 1, ...", parse=texts, shown="labels as they are"
    )
    arrays: tuple[Mapping[str, str], ...] = option(
        (),
        "parts of an .npz: keys of images and labels, further groups",
        parse=_tables(table_of(str, "texts")),
    )
    lists: tuple[Mapping[str, Any], ...] = option(
        (), "text files of paths: file, columns, prefix, label_prefix, further groups", parse=_tables(_list)
    )
    pattern: str | None = option(None, "regular expression (RE2) on paths, whose named groups become columns")


@dataclass(frozen=True, kw_only=True)
class Options(Parts, Reading):
    """How one data set is to be read; a column that is None is found by its usual name."""

    images: bool = option(True, "the data must have images; else ids, labels and groups will do")

    @property
    def naming(self) -> list[Any]:
        """Evidence for the fingerprint: chosen groups and names of labels; nothing where neither is given."""
        given = {"groups": self.groups, "label_names": self.label_names}
        return [{name: list(value)} for name, value in given.items() if value is not None]
