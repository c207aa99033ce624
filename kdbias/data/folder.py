"""An image folder: files below sub-folders, the first sub-folder naming the class."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.access import is_inside, read_at
from kdbias.data.settings import Options
from kdbias.data.source import Source, joined, make_source
from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.run_record import RECORD, stage_of
from kdbias.wording import counted, is_utf8

_EXTENSIONS = "jpg jpeg jpe jfif png webp bmp gif tif tiff ppm pgm pnm jp2 avif"
EXTENSIONS = frozenset(_EXTENSIONS.split(" "))
# Photographs of telephones and cameras, which Pillow does not decode.
_UNREAD = "heic heif hif dng cr2 cr3 crw nef nrw arw sr2 raf orf rw2 pef srw x3f 3fr iiq erf mrw jxl jxr"
_PHOTOGRAPHS = frozenset(_UNREAD.split(" "))
_KINDS_SHOWN = 5
_BATCH = 65536


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files by their path below a root.

    Attributes:
        root: absolute folder, or URI of one in a store.
        paths: (n,) large_string, relative POSIX paths.
    """

    root: str
    paths: pa.Array

    def read(self, row: int) -> bytes:
        """The bytes of a row's file."""
        return read_at(self.root, self.paths[row].as_py())

    def location(self, row: int) -> str:
        """A row's path below the root."""
        return self.paths[row].as_py()


def open_folder(data: str, options: Options) -> Source:
    """Open the images below a folder.

    Ids are paths relative to the root (the folder itself, unless the options name a root above it), with
    ``/``. The label is the first sub-folder of ``data``; images directly in it have none. With a pattern, its
    named groups become the label and groups, and images that do not fit it are left out. Hidden files and
    folders, files without an image's extension and outputs of kdbias (whose plots are images, too) are left
    out. Rows are sorted by id.

    The fingerprint covers ids and file sizes, not the content of the files.

    Raises:
        KdbiasError: no images, an output of kdbias, a symbolic link that leaves the root, or a name that is
            not UTF-8.
    """
    folder = os.path.abspath(data)
    root = os.path.abspath(options.root) if options.root else folder
    real_root = os.path.realpath(root)
    if not is_inside(folder, real_root):
        raise KdbiasError(f"{data}: not below the data root {options.root}")
    prefix = os.path.relpath(os.path.realpath(folder), real_root).replace(os.sep, "/")
    prefix = "" if prefix == "." else prefix + "/"

    if (stage := stage_of(folder)) is not None:
        raise KdbiasError(f"{data} is an output of kdbias {stage}; name the folder of the images")
    walk = _Walk(real_root)
    paths, sizes = _collect(walk.files(folder), data)
    skipped = walk.skipped
    if not len(paths):
        raise KdbiasError(
            f"{data}: no images below this folder ({'; '.join(left_out(skipped)) or 'no files'}); images end "
            "in .jpg, .png, ..."
        )
    order = pc.sort_indices(paths)
    paths = paths.take(order)
    sizes = sizes[order.to_numpy()]
    notes = left_out(skipped)
    if walk.outputs:
        notes.append(f"outputs of kdbias left out ({', '.join(sorted(walk.outputs))})")
    if options.pattern is None:
        slash = pc.find_substring(paths, "/")
        classes = pc.replace_substring_regex(paths, "/.*", "")
        columns = {"label": pc.if_else(pc.greater_equal(slash, 0), classes, None)}
    else:
        fits, columns = named_parts(data, paths, options.pattern)
        if len(fits) < len(paths):
            notes.append(f"{counted(len(paths) - len(fits), 'image')} left out: no fit for the pattern")
        paths, sizes = paths.take(pa.array(fits)), sizes[fits]
    ids = joined(prefix, paths) if prefix else paths
    return make_source(
        "folder",
        data,
        options,
        ids,
        FolderImages(root, ids),
        [fingerprints.of_arrays(ids, sizes), options.pattern, *options.naming],
        labels=columns.pop("label", None),
        groups=columns,
        notes=notes,
    )


def left_out(skipped: Counter[str]) -> list[str]:
    """What is said of files of other kinds (suffix -> how many): which they are, and which may be missed."""
    if not skipped:
        return []
    kinds = [f"{n:,} {suffix or 'without an extension'}" for suffix, n in skipped.most_common(_KINDS_SHOWN)]
    rest = skipped.total() - sum(n for _, n in skipped.most_common(_KINDS_SHOWN))
    kinds += [f"{rest:,} more"] * bool(rest)
    notes = [f"{counted(skipped.total(), 'file')} of other kinds left out: {', '.join(kinds)}"]
    photographs = [suffix for suffix in sorted(skipped) if suffix[1:] in _PHOTOGRAPHS]
    if photographs:
        count = sum(skipped[suffix] for suffix in photographs)
        are, them = ("is a photograph", "it") if count == 1 else ("are photographs", "them")
        notes.append(
            f"{count:,} of these {are} of a kind that is not read ({', '.join(photographs)}), so that the "
            f"data lack {them}: convert to .jpg or .png (ImageMagick: mogrify -format jpg *{photographs[0]})"
        )
    if tables := skipped[".parquet"]:
        notes.append(f"{counted(tables, 'Parquet file')} among them (to read one, name it, or its folder)")
    return notes


def named_parts(data: str, paths: pa.Array, pattern: str) -> tuple[np.ndarray, dict[str, pa.Array]]:
    """What the named groups of a regular expression (RE2, which takes linear time) find in paths.

    Returns:
        Rows of the paths that fit, and name -> (number of these rows,) texts, null where a group is empty.

    Raises:
        KdbiasError: not a regular expression, one without names, or no path fits.
    """
    try:
        found = pc.extract_regex(paths, pattern)
    except pa.ArrowInvalid as error:
        raise KdbiasError(f"{data}: pattern {pattern!r} is not usable ({error})") from None
    rows = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    if not len(rows):
        raise KdbiasError(f"{data}: no path fits the pattern {pattern!r}; the first is {paths[0].as_py()!r}")
    names = [field.name for field in found.type]
    parts = zip(names, found.take(pa.array(rows)).flatten(), strict=True)
    return rows, {name: pc.if_else(pc.equal(part, ""), None, part) for name, part in parts}


def _collect(files: Iterator[tuple[str, int]], data: str) -> tuple[pa.Array, np.ndarray]:
    """Arrow arrays of the paths and sizes, gathered in batches (a list of millions of strings is heavy)."""
    parts, sizes = [pa.array([], pa.large_string())], [np.empty(0, np.int64)]
    while batch := list(itertools.islice(files, _BATCH)):
        names, lengths = zip(*batch, strict=True)
        try:
            parts.append(pa.array(names, pa.large_string()))
        except UnicodeEncodeError:
            bad = next(name for name in names if not is_utf8(name))
            raise KdbiasError(f"{data}: file name {os.fsencode(bad)!r} is not UTF-8; rename it") from None
        sizes.append(np.array(lengths, np.int64))
    return pa.concat_arrays(parts), np.concatenate(sizes)


@dataclass
class _Walk:
    """The image files below a folder; links are followed as long as they stay inside the root.

    Attributes:
        real_root: the root without links.
        skipped: suffix -> files of other kinds that were met.
        outputs: folders that kdbias wrote, relative.
    """

    real_root: str
    skipped: Counter[str] = field(default_factory=Counter)
    outputs: list[str] = field(default_factory=list)

    def files(self, folder: str, below: str = "", parents: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
        """(relative path, bytes) of each."""
        real = os.path.realpath(folder)
        if real in parents:
            raise KdbiasError(f"{folder}: a symbolic link leads back to a folder above it; remove the link")
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise KdbiasError(f"{folder}: cannot list this folder ({error.strerror})") from None
        if below and any(entry.name == RECORD for entry in entries) and stage_of(folder) is not None:
            self.outputs.append(below.rstrip("/"))
            return
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not is_inside(entry.path, self.real_root):
                raise KdbiasError(
                    f"{entry.path}: this symbolic link leaves the data root {self.real_root}; copy the "
                    "files, or give a --root above both"
                )
            if entry.is_dir():
                yield from self.files(entry.path, f"{below}{entry.name}/", (*parents, real))
            elif suffix[1:] in EXTENSIONS and entry.is_file():
                yield below + entry.name, entry.stat().st_size
            else:
                self.skipped[suffix] += 1
