"""Descriptions of data sets: small ``.toml`` files that say where images, ids, labels and groups are.

The keys are documented in ``data_manifests/README.md``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbias.data.access import is_uri, join_root, without_scheme
from kdbias.data.filters import matching
from kdbias.data.settings import COLUMNS, Options, Parts, table_of, texts
from kdbias.data.source import Source, count_distinct
from kdbias.errors import KdbiasError
from kdbias.settings import option
from kdbias.tables.documents import read_toml

_ROLES = tuple(name.removesuffix("_column") for name in COLUMNS)


@dataclass(frozen=True, kw_only=True)
class Description(Parts):
    """A description, read from `file`."""

    file: str = ""
    name: str = option(text="short name of the data set")  # type: ignore[misc] # what messages call it
    source: str = option(text="path of the data, relative to the root")
    kind: str | None = option(None, "how to read it", shown="finds out")
    root: str = option(".", "where paths start: a folder relative to the description, $NAME or a URI")
    columns: Mapping[str, str] | None = option(
        None, "names of columns", parse=table_of(str, f"column names, for {', '.join(_ROLES)}", _ROLES)
    )
    where: tuple[str, ...] = option((), "conditions that always apply", parse=texts)
    expect: Mapping[str, int] | None = option(
        None,
        "samples, labels, a group or column=value -> number, of the unfiltered data",
        parse=table_of(int, "whole numbers"),
    )
    embeddings: Mapping[str, str] | None = option(
        None,
        "teacher embeddings in the same order",
        parse=table_of(str, "texts, a file and a teacher", ("file", "teacher"), ("file",)),
    )
    size: str = option("", "for people")
    terms: str = option("", "stored with results")
    citation: str = option("", "stored with results")
    homepage: str = option("", "for people")
    notes: str = option("", "for people")

    def check(self) -> None:
        """Refuse an empty name or source."""
        if not self.name or not self.source:
            raise KdbiasError("its name or source is empty")

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
    try:
        return replace(Description.of(content, "description"), file=file)
    except KdbiasError as error:
        raise KdbiasError(f"{file}: {error}") from None


def _find(path: str) -> str:
    """Path of a description: a file, or the name of one that ships with kdbias."""
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
    said = {part.name: getattr(description, part.name) for part in Parts.declared()}
    said |= {f"{role}_column": name for role, name in (description.columns or {}).items()}
    if given.label_column is not None:
        del said["label_names"]  # which belong to the label column that the description means
    said |= {name: chosen for name in COLUMNS if (chosen := getattr(given, name))}
    return Options(**said, root=root, images=given.images)


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
    for what, expected in (description.expect or {}).items():
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
