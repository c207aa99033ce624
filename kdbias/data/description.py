"""Descriptions of data sets: small ``.toml`` files that say where images, ids, labels and groups are.

The keys are documented in ``data_manifests/README.md``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kdbias.data.filters import matching
from kdbias.data.options import Options
from kdbias.data.roots import join_root
from kdbias.data.source import Source, count_distinct
from kdbias.data.stores import is_uri, without_scheme
from kdbias.errors import KdbiasError
from kdbias.tables.documents import read_toml

_COLUMNS = ("id", "label", "path", "image")


@dataclass(frozen=True)
class Description:
    """A parsed description.

    Attributes:
        file: the ``.toml`` file.
        name: short name of the data set.
        source: path of the data, relative to the root.
        kind: how to read it; None finds out.
        root: where paths start: a folder relative to the description, or ``$NAME``, an environment
            variable, or a URI.
        columns: names of the "id", "label", "path" and "image" columns.
        groups: columns kept as groups; None keeps all.
        label_names: names of integer labels.
        where: conditions that always apply.
        arrays: parts of an ``.npz``.
        lists: text files of paths.
        pattern: regular expression on paths, whose named groups become columns.
        expect: "samples", "labels" and "column=value" -> number, of the unfiltered data.
        embeddings: teacher embeddings in the same order, "file" relative to the root, and "teacher".
        size, terms, citation, homepage, notes: for people.
    """

    file: str
    name: str
    source: str
    kind: str | None = None
    root: str = "."
    columns: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] | None = None
    label_names: tuple[str, ...] | None = None
    where: tuple[str, ...] = ()
    arrays: tuple[Mapping[str, str], ...] = ()
    lists: tuple[Mapping[str, Any], ...] = ()
    pattern: str | None = None
    expect: Mapping[str, int] = field(default_factory=dict)
    embeddings: Mapping[str, str] = field(default_factory=dict)
    size: str = ""
    terms: str = ""
    citation: str = ""
    homepage: str = ""
    notes: str = ""

    def data_root(self, root: str | os.PathLike[str] | None = None) -> str:
        """Absolute folder that ``source`` starts from: ``root`` if given, else the description's own rule.

        Raises:
            KdbiasError: the environment variable is not set, or the folder does not exist.
        """
        chosen = os.fspath(root) if root is not None else self.root
        chosen = without_scheme(chosen)
        if is_uri(chosen):
            return chosen
        if root is not None:
            found = os.path.abspath(chosen)
        elif self.root.startswith("$"):
            value = os.environ.get(self.root[1:])
            if not value:
                raise KdbiasError(
                    f"{self.file}: where is the data of {self.name}? Give --root or set {self.root[1:]}"
                )
            found = os.path.abspath(value)
        else:
            found = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(self.file)), chosen))
        if not os.path.isdir(found):
            raise KdbiasError(f"{self.file}: the data root {found} is no folder; give another --root")
        return found

    def source_path(self, root: str) -> str:
        """Path of the data below a root.

        Raises:
            KdbiasError: it does not exist or leaves the root.
        """
        path = join_root(root, self.source, self.file)
        if is_uri(path):
            return path
        if not os.path.exists(path) and not any(c in self.source for c in "*?{:"):
            raise KdbiasError(f"{self.file}: the data root {root} has no {self.source}; give another --root")
        return path


def read_description(path: str | os.PathLike[str]) -> Description:
    """Read a ``.toml`` description; a bare file name is also looked up among those that ship with kdbias.

    Raises:
        KdbiasError: no such file, not TOML, unknown keys, or values of the wrong type.
    """
    file = _find(str(path))
    content = read_toml(file)
    known = {entry.name: entry.type for entry in fields(Description) if entry.name != "file"}
    unknown = [key for key in content if key not in known]
    if unknown:
        raise KdbiasError(f"{file}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    for key in ("name", "source"):
        if not content.get(key):
            raise KdbiasError(f"{file}: the key {key!r} is missing")
    values = {key: _checked(file, key, value) for key, value in content.items()}
    return Description(file=file, **values)


_TEXTS = frozenset(
    ("name", "source", "kind", "root", "size", "terms", "citation", "homepage", "notes", "pattern")
)
_TEXT_LISTS = frozenset(("groups", "label_names", "where"))


def _checked(file: str, key: str, value: Any) -> Any:
    def require(fine: bool, what: str) -> None:
        if not fine:
            raise KdbiasError(f"{file}: {key} must be {what}, not {value!r}")

    def texts(items: Any) -> bool:
        return isinstance(items, list) and all(isinstance(item, str) for item in items)

    if key in _TEXTS:
        require(isinstance(value, str), "text")
    elif key in _TEXT_LISTS:
        require(texts(value), "a list of texts")
        return tuple(value)
    elif key == "arrays":
        require(
            isinstance(value, list)
            and all(isinstance(part, dict) and texts(list(part.values())) for part in value),
            "a list of tables of texts",
        )
        return tuple(value)
    elif key == "lists":
        parts = value if isinstance(value, list) and all(isinstance(part, dict) for part in value) else [{}]
        require(all("file" in part for part in parts), "a list of tables with a file")
        for part in parts:
            columns = part.get("columns", [])
            others = [item for name, item in part.items() if name != "columns"]
            require(texts(columns) and texts(others), "tables of texts, their columns a list of texts")
        return tuple(value)
    elif key == "columns":
        require(isinstance(value, dict) and texts(list(value.values())), "a table of column names")
        require(set(value) <= set(_COLUMNS), f"a table with the keys {', '.join(_COLUMNS)}")
    elif key == "expect":
        counts = isinstance(value, dict) and all(type(count) is int for count in value.values())
        require(counts, "a table of whole numbers")
    elif key == "embeddings":
        require(isinstance(value, dict) and texts(list(value.values())), "a table of texts")
        require("file" in value and set(value) <= {"file", "teacher"}, "a table with a file and a teacher")
    return value


def _find(path: str) -> str:
    if os.path.isfile(path):
        return path
    if os.path.basename(path) == path:
        shipped = shipped_descriptions()
        if path in shipped:
            return str(shipped[path])
        raise KdbiasError(f"{path}: no such file, and none that ships with kdbias ({', '.join(shipped)})")
    raise KdbiasError(f"{path}: no such file")


def shipped_descriptions() -> dict[str, Path]:
    """File name -> path of the descriptions that ship with kdbias."""
    from importlib.resources import files

    folder = Path(str(files("kdbias.data_manifests")))
    return {path.name: path for path in sorted(folder.glob("*.toml"))}


def options_of(description: Description, given: Options, root: str) -> Options:
    """The options to open the described data with; those that the user gave come first."""
    columns = description.columns
    return Options(
        id_column=given.id_column or columns.get("id"),
        label_column=given.label_column or columns.get("label"),
        path_column=given.path_column or columns.get("path"),
        image_column=given.image_column or columns.get("image"),
        groups=description.groups,
        # Names belong to the label column that the description means.
        label_names=description.label_names if given.label_column is None else None,
        root=root,
        arrays=description.arrays,
        lists=description.lists,
        pattern=description.pattern,
        images=given.images,
    )


def about(description: Description, root: str) -> dict[str, Any]:
    """What a run's provenance should say of the data."""
    facts: dict[str, Any] = {
        "name": description.name,
        "terms": description.terms,
        "citation": description.citation,
    }
    if description.embeddings:
        file = join_root(root, description.embeddings["file"], description.file)
        facts["embeddings"] = {**description.embeddings, "file": file}
    return facts


def check_counts(description: Description, source: Source, own_labels: bool = True) -> None:
    """Compare unfiltered data with the counts that the description expects.

    Args:
        own_labels: the labels are those the description means, so their number is checked too.

    Raises:
        KdbiasError: a count differs.
    """
    for what, expected in description.expect.items():
        if what == "samples":
            found = source.n
        elif what == "labels":
            if not own_labels:
                continue
            found = 0 if source.labels is None else count_distinct(source.labels)
        elif "=" in what:
            keep = matching(source, [what])
            found = 0 if keep is None else int(keep.sum())
        elif what in source.columns():
            found = count_distinct(source.column(what))
        else:
            raise KdbiasError(
                f"{description.file}: cannot check {what!r}; expect takes samples, labels, a group, or "
                "'column=value'"
            )
        if found != expected:
            raise KdbiasError(
                f"{description.name}: found {found:,} for {what!r}, the description expects {expected:,}; is "
                f"the data complete? If it changed on purpose, correct [expect] in {description.file}"
            )
