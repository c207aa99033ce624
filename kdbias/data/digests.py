"""Digests of the files of a data set, within a budget of bytes however many and large they are."""

import hashlib
from collections.abc import Sequence

from kdbias.data.stores import is_uri, open_input, size_of
from kdbias.tables import fingerprints

WHOLE_BYTES = 1 << 30
"""Data sets up to this size are digested whole."""

SPREAD_BYTES = 1 << 26
"""What is read of larger ones, spread over all their files (up to twice as much where these are many)."""

_PIECE = 1 << 20
_SMALLEST_PIECE = 1 << 12


def digests_of(files: Sequence[str]) -> list[str]:
    """A digest of each file of a data set, 32 hex digits.

    Up to 1 GiB in all, every byte counts. Beyond, a file counts by its size, both its ends and pieces spread
    between them, about 64 MiB over all files. What goes unnoticed then is a change that leaves every size as
    it was and lies between the pieces, such as an image overwritten by one of as many bytes.

    Args:
        files: paths or URIs, the files of one data set.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    sizes = [size_of(file) for file in files]
    if sum(sizes) <= WHOLE_BYTES:
        return [_whole(file) for file in files]
    gaps = max(1, SPREAD_BYTES // _PIECE // len(files))
    piece = min(_PIECE, max(_SMALLEST_PIECE, SPREAD_BYTES // (gaps * len(files))))
    return [_spread(file, size, gaps, piece) for file, size in zip(files, sizes, strict=True)]


def digest_of(file: str) -> str:
    """The digest of a data set of one file, see `digests_of`."""
    return digests_of([file])[0]


def _whole(file: str) -> str:
    if not is_uri(file):
        return fingerprints.of_file(file)
    digest = hashlib.blake2b(digest_size=16)
    with open_input(file) as handle:
        while piece := handle.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _spread(file: str, size: int, gaps: int, piece: int) -> str:
    if size <= (gaps + 1) * piece:
        return _whole(file)
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open_input(file) as handle:
        for number in range(gaps + 1):
            handle.seek(min(number * (size // gaps), size - piece))
            digest.update(handle.read(piece))
    return digest.hexdigest()
