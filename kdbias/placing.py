"""Arguments that name places in stores, brought to where a stage can work on them.

Every public function's arguments, and the values of a file of options, come through `placed`: outputs, tables
and single files become paths of their mirrors (:mod:`kdbias.tables.mirrors`). Tables of images stay where
they are, as their images are read one by one.
"""

from __future__ import annotations

import os
import re
from typing import Any

from kdbias.scratch import store_uri

_AS_THEY_ARE = ("root", "title", "engine")
_DATA = ("data", "path", "towards")
_TABLES = (".csv", ".tsv", ".parquet")
_URI = re.compile(r"(?:^|(?<=[:@]))[A-Za-z][A-Za-z0-9+.-]+://[^@]+")  # alone, in a teacher's spec or a target


def placed(name: str, value: Any) -> Any:
    """The value of an argument or option by this name, in which local paths stand for places in stores."""
    if name in _AS_THEY_ARE or value is None:
        return value
    if isinstance(value, list | tuple):
        return type(value)(placed(name, each) for each in value)
    if isinstance(value, os.PathLike):
        value = store_uri(value) or value
    if not isinstance(value, str):
        return value
    return _URI.sub(lambda found: _local(found[0], name in _DATA), value)


def _local(uri: str, is_data: bool) -> str:
    if store_uri(uri) is None:
        return uri
    if is_data and _stays(uri):
        return uri
    from kdbias.tables.mirrors import local_path  # with pyarrow, which no --help waits for

    return os.fspath(local_path(uri))


def _stays(uri: str) -> bool:
    """Whether a URI is a table of images, which is read where it lies; so is the lack of anything."""
    from kdbias.errors import KdbiasError
    from kdbias.tables.listing import LISTING
    from kdbias.tables.stores import described, names_in

    suffix = os.path.splitext(uri.partition("?")[0])[1].lower()
    names = names_in(uri)
    if names is not None:
        return not {"run.json", LISTING} & {*names} and any(name.endswith(".parquet") for name in names)
    if suffix != ".parquet":
        return suffix in _TABLES
    try:
        return described(uri) is None
    except (KdbiasError, OSError):
        return True
