"""How a data set is to be read: what the command line and a description say of its columns and parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbias.errors import KdbiasError

COLUMNS = ("id_column", "label_column", "path_column", "image_column")
"""The attributes of `Options` that name a column."""

_SHOWN = {
    "id_column": "--id-column",
    "label_column": "--label-column",
    "path_column": "--path-column",
    "image_column": "--image-column",
    "arrays": "[[arrays]]",
    "lists": "[[lists]]",
    "pattern": "pattern",
}
"""Attribute -> how a user gives it."""


@dataclass(frozen=True)
class Options:
    """How the columns of a data set are to be read; what is None is found by its usual name.

    Attributes:
        id_column, label_column, path_column, image_column: names of columns.
        groups: the columns kept as groups; None keeps all that are left.
        label_names: names of the integer labels 0, 1, ...
        root: folder that paths start from, and that none may leave.
        arrays: parts of an ``.npz`` file, each {"images": key, "labels": key, any further group: value}.
        lists: text files of paths, each {"file": path, "columns": names, any further group: value, ...}.
        pattern: regular expression (RE2) on paths; its named groups become columns.
        images: whether the data must have images; else a table of ids, labels and groups will do.
    """

    id_column: str | None = None
    label_column: str | None = None
    path_column: str | None = None
    image_column: str | None = None
    groups: Sequence[str] | None = None
    label_names: Sequence[str] | None = None
    root: str | None = None
    arrays: Sequence[Mapping[str, str]] = ()
    lists: Sequence[Mapping[str, Any]] = ()
    pattern: str | None = None
    images: bool = True

    def refuse_unused(self, what: str, *used: str) -> None:
        """Say that what was given makes no sense for a kind of data, so that nothing is overlooked.

        Args:
            what: the kind and the data, for the message.
            used: names of the attributes that this kind reads, beside groups and label_names.

        Raises:
            KdbiasError: another attribute is given.
        """
        unused = [
            shown if isinstance(value, Sequence) and not isinstance(value, str) else f"{shown} {value}"
            for name, shown in _SHOWN.items()
            if name not in used and (value := getattr(self, name))
        ]
        if unused:
            raise KdbiasError(f"{what} makes no use of {', '.join(unused)}: leave it out")

    @property
    def naming(self) -> list[Any]:
        """Evidence for the fingerprint: chosen groups and names of labels; nothing where neither is given."""
        given = {"groups": self.groups, "label_names": self.label_names}
        return [{name: list(value)} for name, value in given.items() if value is not None]
