"""Folders in stores and where they are worked on: names alone, nothing is read or written here.

A stage sees local paths and no others. What it is given by URI (``s3://bucket/emb``) lies for it in a mirror
within a local scratch folder, ``SCRATCH/kdbias-mirrors/s3/bucket/emb``, and :mod:`kdbias.tables.mirrors`
keeps the two alike. People and records know it by its URI: whatever leaves a process goes through `named`
(texts) or `recorded` (documents).
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

VARIABLE = "KDBIAS_SCRATCH"
"""Environment variable: the scratch folder. Processes that one starts find its mirrors by it."""

# One letter is a drive of Windows, and a word before a local path the kind of a teacher.
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(?=[^/])|(s3|gs|gcs|hdfs|viewfs|abfss?):/(?=[^/])")
_OURS = "kdbias-mirrors"  # beside which whatever a user keeps there is left alone
_OUTSIDE = ("file", "http", "https")  # schemes without folders to write to


def store_uri(path: str | os.PathLike[str]) -> str | None:
    """The URI of a place in a store, or None for a local path; a `Path` has lost one of its slashes."""
    found = _URI.match(text := os.fspath(path))
    scheme = "" if found is None else found[1] or found[2]
    if found is None or scheme.lower() in _OUTSIDE:
        return None
    return f"{scheme}://{text[found.end() :]}"


def root() -> str | None:
    """Where mirrors lie in the scratch folder, without links; None as long as nothing is mirrored."""
    named = os.environ.get(VARIABLE)
    return os.path.join(os.path.realpath(named), _OURS) if named else None


def mirror_of(uri: str) -> Path:
    """Where a place in a store is worked on; the options of the URI stay with the bucket's name."""
    base, mark, options = uri.partition("?")
    scheme, _, rest = base.partition("://")
    bucket, _, key = rest.partition("/")
    home = root()
    assert home is not None
    return Path(home, scheme, quote(bucket + mark + options, safe=""), *filter(None, key.split("/")))


def uri_of(path: str | os.PathLike[str]) -> str | None:
    """The URI of a path within a mirror; None for any other path."""
    text, home = os.fspath(path), root()
    if home is None or not text.startswith(home + os.sep):
        return None
    scheme, _, rest = text[len(home) + 1 :].partition(os.sep)
    bucket, _, key = rest.partition(os.sep)
    name, mark, options = unquote(bucket).partition("?")
    return f"{scheme}://{name}/{key}{mark}{options}" if bucket else None


def named(text: str) -> str:
    """A text in which paths within mirrors are URIs, without the URIs' options."""
    home = root()
    return text if home is None or home not in text else _mirrored(home).sub(_told, text)


def recorded(value: Any) -> Any:
    """JSON values in which paths within mirrors are URIs, with all of their options."""
    if isinstance(value, dict):
        return {key: recorded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [recorded(each) for each in value]
    if not isinstance(value, str) or root() is None:
        return value
    return "@".join(named(uri_of(part) or part) for part in value.split("@"))  # a target may name two files


def name_of(path: str | os.PathLike[str]) -> str:
    """What a path is known by from any folder: its URI, or its absolute path."""
    return store_uri(path) or uri_of(path) or os.path.abspath(path)


@lru_cache(maxsize=8)
def _mirrored(home: str) -> re.Pattern[str]:
    return re.compile(re.escape(home + os.sep) + r"([a-z][a-z0-9+.-]*)/([^/\s'\",;:)\]]+)")


def _told(found: re.Match[str]) -> str:
    return f"{found[1]}://{unquote(found[2]).partition('?')[0]}"
