"""Stores that pyarrow or fsspec reach (s3, gs, hdfs, ...): connections, listings, and words for faults.

Nothing here waits for long: a store that does not answer is an error within about a minute.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from kdbias.errors import KdbiasError, MachineError, first_line
from kdbias.optional import require
from kdbias.tables import provenance
from kdbias.wording import cut

_S3_OPTIONS = ("region", "scheme", "endpoint_override")
_TRIES, _CONNECT_SECONDS, _SILENT_SECONDS = 4, 10, 30
_NO_BUCKET = ("NO_SUCH_BUCKET", "Bucket not found", "' not found")
_DENIED = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "SIGNATURE_DOES_NOT_MATCH"),
    *("MISSING_AUTHENTICATION_TOKEN", "EXPIRED", "UNRECOGNIZED_CLIENT", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "HTTP response code 401", "HTTP response code 403", "Permission denied"),
)
_AWAY = ("NETWORK_CONNECTION", "curlCode", "Connection refused", "Could not resolve", "timed out")

Version = tuple[int, int | None]
"""What tells one content of a file from the next: its size in bytes, its time in nanoseconds."""


def located(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a URI, and the file's path in it.

    Raises:
        KdbiasError: an unknown store, or one that cannot be reached.
    """
    base, mark, options = uri.partition("?")
    scheme, _, rest = base.partition("://")
    host, _, path = rest.partition("/")
    with told(uri):
        if scheme in ("http", "https"):  # there the options belong to the file
            return _connect(f"{scheme}://{host}/", os.getpid())[0], uri
        store = f"{scheme}://{host}{mark}{options}" if host else f"{scheme}:///"
        filesystem, inner = _connect(store, os.getpid())
    return filesystem, f"{inner.rstrip('/')}/{path}".rstrip("/")


@lru_cache(maxsize=16)
def _connect(store: str, process: int) -> tuple[fs.FileSystem, str]:
    """A connection of this process, and the path of the store's root in it."""
    try:
        if store.startswith("s3://") and (found := _s3(store)) is not None:
            return found
        if store.startswith("gs://") and "retry_limit_seconds" not in store:
            store = f"{store}{'&' if '?' in store else '?'}retry_limit_seconds={_SILENT_SECONDS}"
        try:
            return fs.FileSystem.from_uri(store)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):  # not a scheme that pyarrow knows
            filesystem, inner = require("fsspec").core.url_to_fs(store)
            return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), inner
    except (KdbiasError, OSError):
        raise
    except Exception as error:  # whatever fsspec's many libraries raise
        raise KdbiasError(f"{store}: cannot reach this store ({first_line(error)})") from None


def _s3(store: str) -> tuple[fs.FileSystem, str] | None:
    """A connection to S3 that gives up in time; None where the URI says more than that needs."""
    base, _, options = store.partition("?")
    bucket = base.removeprefix("s3://")
    given: dict[str, Any] = {name: values[-1] for name, values in parse_qs(options).items()}
    if "@" in bucket or not given.keys() <= set(_S3_OPTIONS):
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in given:  # of which pyarrow knows only in `from_uri`
        scheme, _, given["endpoint_override"] = endpoint.rstrip("/").rpartition("://")
        given |= {"scheme": scheme} if scheme else {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not given.get("endpoint_override"):
        given.setdefault("region", region or fs.resolve_s3_region(bucket))
    elif region:
        given.setdefault("region", region)
    return fs.S3FileSystem(
        **given,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_SILENT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    ), bucket


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """What a store refuses inside the block is one line with the URI and the way out.

    Raises:
        KdbiasError: no such bucket, or no right to it.
        MachineError: it cannot be reached, or failed.
    """
    try:
        yield
    except (KdbiasError, FileNotFoundError):
        raise
    except (pa.ArrowException, OSError) as error:
        reason = cut(first_line(error), 300)
        if "libjvm" in reason or "libhdfs" in reason:
            raise KdbiasError(f"{uri}: Hadoop's client is not installed here ({reason})") from None
        if any(word in reason for word in _NO_BUCKET):
            raise KdbiasError(f"{uri}: there is no such bucket; make it, or name another one") from None
        if any(word in reason for word in _DENIED):
            raise KdbiasError(
                f"{uri}: the store refuses access ({reason}); check the credentials (for s3 AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) and what they allow"
            ) from None
        if any(word in reason for word in _AWAY):
            raise MachineError(
                f"{uri}: the store cannot be reached ({reason}); check the network and the endpoint (for s3 "
                "AWS_ENDPOINT_URL), then run the same command again"
            ) from None
        raise MachineError(f"{uri}: the store failed ({reason}); run the same command again") from None


def listing(uri: str) -> dict[str, Version]:
    """The files below a place in a store, by their path from there; of a file alone ``{"": ...}``.

    Raises:
        KdbiasError: no such bucket, or as `told`.
    """
    filesystem, inner = located(uri)
    with told(uri):
        info = filesystem.get_file_info(inner)
        if info.type is fs.FileType.File:
            return {"": version(info)}
        if info.type is fs.FileType.NotFound and "/" in inner.strip("/"):
            bucket = filesystem.get_file_info(inner.strip("/").partition("/")[0])
            if bucket.type is fs.FileType.NotFound and uri.startswith(("s3://", "gs://")):
                raise KdbiasError(f"{uri}: there is no such bucket; make it, or name another one")
        infos = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True, recursive=True))
    start = inner.rstrip("/") + "/"
    return {i.path.removeprefix(start): version(i) for i in infos if i.type is fs.FileType.File}


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, inner = located(uri)
    with told(uri):
        return filesystem.get_file_info(inner).type is not fs.FileType.NotFound


def names_in(uri: str) -> list[str] | None:
    """Names in a folder, or None if it is none."""
    filesystem, inner = located(uri)
    with told(uri):
        if filesystem.get_file_info(inner).type is not fs.FileType.Directory:
            return None
        return [info.base_name for info in filesystem.get_file_info(fs.FileSelector(inner))]


def described(uri: str) -> dict[str, Any] | None:
    """The provenance in a Parquet file, of which the footer alone is read; None where kdbias wrote none.

    Raises:
        KdbiasError: as `told`.
        OSError: no such file, or no Parquet file.
    """
    filesystem, inner = located(uri)
    with told(uri), filesystem.open_input_file(inner) as file:
        return provenance.from_schema(pq.read_schema(file), uri)


def version(info: fs.FileInfo) -> Version:
    """Size and time of a file."""
    return info.size, info.mtime_ns
