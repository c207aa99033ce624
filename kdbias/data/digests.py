"""Digests of data files, cheap enough for files of any size."""

import hashlib

from kdbias.data.stores import is_uri, open_input, size_of
from kdbias.tables import fingerprints

WHOLE_BYTES = 1 << 30
"""Files up to this size are digested whole."""

_PIECES, _PIECE = 64, 1 << 20


def digest_of(file: str) -> str:
    """Digest of a file: its bytes up to 1 GiB, beyond that its size, its ends and 64 MiB spread over it.

    Args:
        file: path or URI.
    """
    size = size_of(file)
    if size <= WHOLE_BYTES and not is_uri(file):
        return fingerprints.of_file(file)
    with open_input(file) as handle:
        if size <= WHOLE_BYTES:
            return hashlib.blake2b(handle.read(), digest_size=16).hexdigest()
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        for number in range(_PIECES + 1):
            handle.seek(min(number * (size // _PIECES), size - _PIECE))
            digest.update(handle.read(_PIECE))
        return digest.hexdigest()
