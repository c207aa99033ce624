"""``open_data`` finds the kind of a data set and opens it.

What a path does not show, a description does: a small ``.toml`` file that says where images, ids, labels and
groups are. Its keys are documented in ``data_manifests/README.md``.
"""

import errno
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbias.data import KINDS, OF_SUFFIX, TORCHVISION
from kdbias.data.access import UNREADABLE, is_uri, join_root, without_scheme
from kdbias.data.filters import filter_source, matching
from kdbias.data.huggingface import is_saved_by_datasets
from kdbias.data.settings import COLUMNS, Options, Parts, Reading, table_of, texts
from kdbias.data.source import Source, count_distinct
from kdbias.data.table import parquet_below
from kdbias.data.webdataset import COMPRESSED
from kdbias.errors import KdbiasError, first_line
from kdbias.functions import takes_settings
from kdbias.scratch import store_uri, uri_of
from kdbias.settings import option
from kdbias.tables.documents import read_toml
from kdbias.tables.files import absent, nearest_path, refuse_special
from kdbias.tables.stores import exists
from kdbias.wording import nearest

__all__ = ["KINDS", "Options", "Source", "open_data"]

_ROLES = tuple(name.removesuffix("_column") for name in COLUMNS)


@takes_settings(Reading)
def open_data(data: str | os.PathLike[str], *, images: bool = True, settings: Reading) -> Source:
    """Open a data set.

    Args:
        data: an image folder, a ``.csv``/``.tsv``/``.parquet`` manifest, MXNet RecordIO (``train.rec`` or its
            folder), WebDataset tars, a verification ``.bin`` or a folder of them, a folder that ``datasets``
            saved, ``torchvision:NAME``, or a ``.toml`` description (a file, or the name of one that ships
            with kdbias). A path or a URI (``s3://...``): manifests and their images are read where they lie,
            the rest is copied to the scratch folder first.
        images: whether there must be images; without, a table of ids, labels and groups will do.

    Returns:
        A source with at least one sample and unique ids. Conditions of ``where`` are "column=value" or
        "column!=value", see :mod:`kdbias.data.filters`. Paths start from ``root`` and may not leave it;
        without a description it is refused for data that holds its images itself.

    Raises:
        KdbiasError: nothing there, unknown columns or values, options that this kind of data makes no use
            of, repeated ids, paths that leave the root, or no samples.
    """
    name = without_scheme(os.fspath(data))
    root = None if settings.root is None else without_scheme(settings.root)
    options = Options(**settings.reading | {"root": root, "images": images})
    if name.lower().endswith(".toml"):
        return _open_described(name, options)
    kind = kind_of(name)
    if root is not None and "root" not in KINDS[kind].uses:
        raise KdbiasError(f"{name}: {kind} data holds its images and has no paths: leave out --root {root}")
    return filter_source(_open(name, kind, options), options.where)


def require_data(data: str | os.PathLike[str]) -> None:
    """Refuse what a look at the path shows to be no data, before anything is read.

    Raises:
        KdbiasError: as :func:`kind_of`; for a description, as :func:`read_description`.
    """
    name = without_scheme(os.fspath(data))
    _ = read_description(name) if name.lower().endswith(".toml") else kind_of(name)


def kind_of(data: str) -> str:
    """The kind of data at a path.

    Raises:
        KdbiasError: nothing there, or nothing kdbias can read.
    """
    if data.startswith(TORCHVISION):
        return "torchvision"
    if is_uri(data):
        return _kind_in_store(data)
    if not os.path.isdir(data):
        return _kind_of_file(data)
    kind = _kind_of_folder(data)
    for name in os.listdir(data) if kind != "folder" else ():  # of which each image is looked at
        refuse_special(os.path.join(data, name))
    return kind


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _kind_in_store(uri: str) -> str:
    """A file by its ending, which says that it is a table; a folder is one of tables."""
    if OF_SUFFIX.get(_suffix(uri.partition("?")[0]), "table") != "table":
        raise KdbiasError(f"{uri}: only .csv, .tsv and .parquet are read from a store; copy it to a disk")
    if store_uri(uri) is not None and not exists(uri):
        raise absent(uri, "file or folder")
    return "table"


def _kind_of_file(file: str) -> str:
    """By its ending; a pattern of tars need not be there."""
    refuse_special(file)
    suffix = _suffix(file)
    is_pattern = suffix == ".tar" and any(c in file for c in "*?[{")
    if not (is_pattern or os.path.exists(file)):
        raise absent(file, "file or folder")
    if file.lower().endswith(COMPRESSED):
        raise KdbiasError(f"{file}: a compressed tar; decompress it first: images are read in any order")
    if suffix not in OF_SUFFIX:
        known = ", ".join((*OF_SUFFIX, ".toml"))
        raise KdbiasError(f"{file}: not a kind of data kdbias reads; give a folder or one of {known}")
    return OF_SUFFIX[suffix]


def _kind_of_folder(folder: str) -> str:
    """By what lies directly in the folder; one of folders holds images, or Parquet files and no image."""
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    if is_saved_by_datasets(names):
        return "huggingface"
    suffixes = set(map(_suffix, names))
    if ".rec" in suffixes:
        return "recordio"
    if ".tar" in suffixes:
        return "webdataset"
    if suffixes == {".bin"}:
        return "bin"
    return "table" if parquet_below(folder) else "folder"


def _open(data: str, kind: str, options: Options) -> Source:
    """Open data of a kind, and refuse what was said and would be overlooked."""
    wanted = (*COLUMNS, "arrays", "lists", "pattern")
    idle = f"{kind} data ({data}) makes no use of it"
    options.refuse_idle({name: idle for name in wanted if name not in KINDS[kind].uses})
    module = importlib.import_module(f"kdbias.data.{KINDS[kind].module}")
    try:
        return getattr(module, f"open_{kind}")(data, options)
    except UNREADABLE as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.ENOENT):
            raise  # what the machine refuses (permission, a failing disk)
        raise KdbiasError(f"{data}: cannot be read ({first_line(error)})") from None


def _open_described(file: str, given: Options) -> Source:
    """The source of a dataset description, checked against what it expects."""
    description = read_description(file)
    root = description.data_root(given.root)
    path = description.source_path(root)
    kind = description.kind or kind_of(path)
    if kind not in KINDS:
        raise KdbiasError(f"{description.file}: unknown kind {kind!r}; known are {', '.join(KINDS)}")
    source = _open(path, kind, _options_of(description, given, root))
    source = replace(source, about=_about(description, root))
    _check_counts(description, source, own_labels=given.label_column is None)
    return filter_source(source, [*description.where, *given.where])


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
        chosen, base = (self.root, os.path.dirname(self.file)) if root is None else (os.fspath(root), "")
        if root is None and chosen.startswith("$"):
            chosen, base, variable = os.environ.get(chosen[1:], ""), "", chosen[1:]
            if not chosen:
                raise KdbiasError(
                    f"{self.file}: where is the data of {self.name}? Give --root or set {variable}"
                )
        chosen = without_scheme(chosen)
        if is_uri(chosen):
            return chosen
        found = os.path.abspath(os.path.join(base, chosen))
        stored = uri_of(found)
        if stored is not None and not os.path.exists(os.path.join(found, self.source)):
            return stored  # of which the description alone was brought here
        if not os.path.isdir(found):
            raise KdbiasError(f"{self.file}: the data root {found} is no folder; give another --root")
        return found

    def source_path(self, root: str) -> str:
        """Path of the data below a root; a name of torchvision's stays one.

        Raises:
            KdbiasError: it does not exist or leaves the root.
        """
        if self.source.startswith(TORCHVISION):
            return self.source
        path = join_root(root, self.source, self.file)
        if not (is_uri(path) or os.path.exists(path) or any(c in self.source for c in "*?{:")):
            raise KdbiasError(f"{self.file}: the data root {root} has no {self.source}; give another --root")
        return path


def read_description(path: str | os.PathLike[str]) -> Description:
    """Read a ``.toml`` description; a bare file name is also looked up among those that ship with kdbias.

    Raises:
        KdbiasError: no such file, not TOML, unknown keys, or values of the wrong type.
    """
    file, shipped = str(path), shipped_descriptions()
    if not os.path.isfile(file):
        if file not in shipped:
            raise KdbiasError(
                f"{file}: no such file, and none that ships with kdbias ({', '.join(shipped)})"
                + (nearest(file, shipped) or nearest_path(file))
            )
        file = str(shipped[file])
    content = read_toml(file)
    try:
        return replace(Description.of(content, "description"), file=file)
    except KdbiasError as error:
        raise KdbiasError(f"{file}: {error}") from None


def shipped_descriptions() -> dict[str, Path]:
    """File name -> path of the descriptions that ship with kdbias."""
    from importlib.resources import files

    folder = Path(str(files("kdbias.data_manifests")))
    return {path.name: path for path in sorted(folder.glob("*.toml"))}


def _options_of(description: Description, given: Options, root: str) -> Options:
    """The options to open the described data with; those that the user gave come first."""
    said = {part.name: getattr(description, part.name) for part in Parts.declared()}
    said |= {f"{role}_column": name for role, name in (description.columns or {}).items()}
    if given.label_column is not None:
        del said["label_names"]  # which belong to the label column that the description means
    said |= {name: chosen for name in COLUMNS if (chosen := getattr(given, name))}
    return Options(**said, root=root, images=given.images)


def _about(description: Description, root: str) -> dict[str, Any]:
    """What a run's provenance should say of the data."""
    facts: dict[str, Any] = {name: getattr(description, name) for name in ("name", "terms", "citation")}
    if description.embeddings:
        file = join_root(root, description.embeddings["file"], description.file)
        facts["embeddings"] = {**description.embeddings, "file": file}
    return facts


def _check_counts(description: Description, source: Source, own_labels: bool = True) -> None:
    """Compare unfiltered data with the counts that the description expects.

    Args:
        own_labels: the labels are those the description means, so their number is checked too.

    Raises:
        KdbiasError: a count differs.
    """
    for what, expected in (description.expect or {}).items():
        if what == "labels" and not own_labels:
            continue
        if what == "samples":
            found = source.n
        elif what == "labels":
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
