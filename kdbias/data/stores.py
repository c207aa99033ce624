"""Files by path or URI: local ones, and those of any store that pyarrow or fsspec knows (s3, gs, hdfs,
...)."""

import os
from functools import lru_cache

import pyarrow as pa
from pyarrow import fs

from kdbias.data.decode import UnreadableImage
from kdbias.data.roots import MAX_FILE_BYTES, leaves_root, read_below, spellings
from kdbias.errors import KdbiasError, first_line
from kdbias.optional import require

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What reading a damaged or missing file raises."""


def is_uri(path: str) -> bool:
    """Whether a path names its store ("s3://bucket/x.parquet")."""
    return "://" in path


def without_scheme(path: str) -> str:
    """A local file's path for its URI (so that links are checked as for any local path); other URIs as they
    are."""
    if not path.startswith("file://"):
        return path
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(path).path)


def open_input(path: str) -> pa.NativeFile:
    """A file for reading at any position; a local one is memory-mapped.

    Raises:
        OSError: it is not there or cannot be read.
        KdbiasError: an unknown store.
    """
    if not is_uri(path):
        return pa.memory_map(path)
    filesystem, inner = _located(path)
    return filesystem.open_input_file(inner)


def size_of(path: str) -> int:
    """Size of a file in bytes.

    Raises:
        OSError: no such file.
    """
    if not is_uri(path):
        return os.path.getsize(path)
    filesystem, inner = _located(path)
    info = filesystem.get_file_info(inner)
    if info.type is not fs.FileType.File:
        raise FileNotFoundError(2, "no such file", path)
    return info.size


def names_in(folder: str) -> list[str] | None:
    """Names in a folder, or None if it is none."""
    if not is_uri(folder):
        return os.listdir(folder) if os.path.isdir(folder) else None
    filesystem, inner = _located(folder)
    if filesystem.get_file_info(inner).type is not fs.FileType.Directory:
        return None
    return [info.base_name for info in filesystem.get_file_info(fs.FileSelector(inner))]


def parent_of(path: str) -> str:
    """The folder that holds a file."""
    if not is_uri(path):
        return os.path.dirname(os.path.abspath(path))
    base, mark, options = path.partition("?")
    return base.rpartition("/")[0] + mark + options


def read_at(root: str, path: str) -> bytes:
    """Bytes of a file at a relative path below a folder or URI, sought as `read_below` does.

    Each process connects to a store for itself. (The S3 client does not survive a fork: workers should be
    spawned.)

    Raises:
        UnreadableImage: missing, too large, or outside the root.
    """
    if not is_uri(root):
        return read_below(root, path)
    if leaves_root(path):
        raise UnreadableImage(f"path {path!r} leaves the data root")
    for spelling in spellings(path):
        try:
            with open_input(join(root, spelling)) as file:
                size = file.size()
                if size > MAX_FILE_BYTES:
                    raise UnreadableImage(f"{path!r} has {size:,} bytes, limit {MAX_FILE_BYTES:,}")
                return file.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UnreadableImage(f"cannot read {path!r}: {first_line(error)}") from None
    raise UnreadableImage(f"cannot read {path!r}: no such file")


def join(root: str, path: str) -> str:
    """``root/path`` for a root URI, whose options ("?region=...") stay at the end."""
    base, mark, options = root.partition("?")
    return f"{base.rstrip('/')}/{path}{mark}{options}"


def _located(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a URI, and the file's path in it."""
    base, mark, options = uri.partition("?")
    scheme, _, rest = base.partition("://")
    host, _, path = rest.partition("/")
    if scheme in ("http", "https"):  # there the options belong to the file
        return _connect(f"{scheme}://{host}/", os.getpid())[0], uri
    store = f"{scheme}://{host}{mark}{options}" if host else f"{scheme}:///"
    filesystem, inner = _connect(store, os.getpid())
    return filesystem, f"{inner.rstrip('/')}/{path}"


@lru_cache(maxsize=16)
def _connect(store: str, process: int) -> tuple[fs.FileSystem, str]:
    """A connection of this process, and the path of the store's root in it."""
    try:
        return fs.FileSystem.from_uri(store)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
        pass  # a scheme that pyarrow does not know
    except OSError as error:
        raise KdbiasError(f"{store}: cannot reach this store ({first_line(error)})") from None
    fsspec = require("fsspec")
    try:
        filesystem, inner = fsspec.core.url_to_fs(store)
    except (ValueError, ImportError, OSError) as error:
        raise KdbiasError(f"{store}: cannot reach this store ({first_line(error)})") from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), inner
