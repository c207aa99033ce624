"""Digests of data files, cheap enough for files of any size."""

import hashlib
import os

from kdbias.tables import fingerprints

WHOLE_BYTES = 1 << 30
"""Files up to this size are digested whole."""

_PIECES, _PIECE = 64, 1 << 20


def digest_of(file: str) -> str:
    """Digest of a file: its bytes up to 1 GiB, beyond that its size, its ends and 64 MiB spread over it."""
    size = os.path.getsize(file)
    if size <= WHOLE_BYTES:
        return fingerprints.of_file(file)
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(file, "rb") as handle:
        for number in range(_PIECES + 1):
            handle.seek(min(number * (size // _PIECES), size - _PIECE))
            digest.update(handle.read(_PIECE))
    return digest.hexdigest()
