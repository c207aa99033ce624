"""Face verification sets (``lfw.bin``, ``cfp_fp.bin``, ``agedb_30.bin``, ...), read without unpickling.

Such a file is a pickle of (encoded images, same-person flags); images 2i and 2i + 1 form pair i.
"""

import mmap
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.access import digest_of
from kdbias.data.harmless_pickle import ARRAYS, BUFFERS, REBUILT, SCALARS, Call, Machine, Span
from kdbias.data.settings import Options
from kdbias.data.sharded import RandomAccess, Sharded
from kdbias.data.source import Source, make_source, numbered_parts
from kdbias.errors import KdbiasError, first_line


def read_pairs(path: str | os.PathLike[str]) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """The pairs of a verification set.

    Returns:
        (m,) ids of the first images, (m,) ids of the second (as the source of ``open_bin`` has them), and
        (m,) bool, true where both show the same person.

    Raises:
        KdbiasError: not such a file, or it contains code.
    """
    images, same = _parse(str(path))
    ids = _ids([str(path)], [len(images)])
    first = pa.array(np.arange(0, len(ids), 2))
    return ids.take(first), ids.take(pc.add(first, 1)), same


def open_bin(data: str, options: Options) -> Source:
    """Open the images of a verification set: ids are "<file name>/<number>", groups ``pair`` and ``same``.

    A folder of such files (RFW has one a group) is one data set. The fingerprint covers their content.

    Raises:
        KdbiasError: not such a file, or it contains code.
    """
    files = [data]
    if os.path.isdir(data):
        names = sorted(name for name in os.listdir(data) if not name.startswith("."))
        files = [os.path.join(data, name) for name in names if name.lower().endswith(".bin")]
        if not files:
            raise KdbiasError(f"{data}: no verification set (.bin) in this folder")
    parsed = [_parse(file) for file in files]
    same = np.concatenate([flags for _, flags in parsed])
    return make_source(
        "bin",
        data,
        options,
        _ids(files, [len(images) for images, _ in parsed]),
        BinImages([os.path.abspath(file) for file in files], [images for images, _ in parsed]),
        [*(digest_of(file) for file in files), *options.naming],
        groups={
            "pair": pa.array(np.repeat(np.arange(len(same)), 2)),
            "same": pa.array(np.repeat(same, 2)),
        },
    )


def _ids(files: list[str], lengths: list[int]) -> pa.Array:
    """Ids of all images, large_string (images,): FILE/NUMBER."""
    stems = (os.path.splitext(os.path.basename(file))[0] for file in files)
    return numbered_parts([f"{stem}/" for stem in stems], lengths, 6)


class BinImages(Sharded[None]):
    """Images of verification sets by their place in the files.

    Args:
        files: absolute paths.
        images: of each file a span of it each, or the bytes where the pickle holds them in another encoding.
    """

    def __init__(self, files: list[str], images: list[list["Span | bytes"]]) -> None:
        super().__init__([len(of_file) for of_file in images], [os.path.basename(file) for file in files])
        every = [image for of_file in images for image in of_file]
        spans = [image if isinstance(image, Span) else Span(0, 0) for image in every]
        self._spans = np.array([(s.offset, s.length) for s in spans], np.int64).reshape(-1, 2)
        self._given = {i: image for i, image in enumerate(every) if isinstance(image, bytes)}
        self._files = RandomAccess(files)

    def read(self, row: int) -> bytes:
        """The encoded bytes of a row's image."""
        if row in self._given:
            return self._given[row]
        return self._files.read(self.place(row)[0], *self._spans[row].tolist())


def _parse(data: str) -> tuple[list[Span | bytes], np.ndarray]:
    """The encoded images, and whether each pair shows one person, bool (pairs,)."""
    try:
        with open(data, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            value = Machine(data, content).run()
            if not (isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], list)):
                raise KdbiasError(f"{data}: not a pickled pair (images, same-person flags)")
            images = [_image(data, item) for item in value[0]]
            same = np.array(_flags(data, value[1], content), bool)
    except OSError as error:
        raise KdbiasError(f"{data}: cannot be read ({error.strerror or error})") from None
    except KdbiasError:
        raise
    except (ValueError, IndexError, TypeError, KeyError, UnicodeDecodeError) as error:
        text = first_line(error)
        raise KdbiasError(f"{data}: not a verification set: damaged or truncated pickle ({text})") from None
    if len(images) != 2 * len(same) or not images:
        raise KdbiasError(f"{data}: {len(images):,} images for {len(same):,} pairs; two a pair are needed")
    return images, same


def _image(data: str, item: Any) -> Span | bytes:
    """Encoded bytes of one image, however they were pickled."""
    if isinstance(item, Span):
        return item
    if isinstance(item, Call) and item.name == "_codecs.encode" and isinstance(item.arguments[0], str):
        return item.arguments[0].encode("latin-1")
    if isinstance(item, Call) and item.name in ARRAYS and _type_of(item) in ("u1", "i1"):
        return _raw(data, item)
    raise KdbiasError(f"{data}: an image is pickled as {type(item).__name__}, which kdbias cannot read")


def _type_of(value: Call) -> str:
    """NumPy's name of the type of an array or scalar ("u1", "b1", "i8"), without byte order."""
    kind = value.state[2] if value.name in REBUILT else value.arguments[value.name in BUFFERS]
    if not isinstance(kind, Call) or kind.name != "numpy.dtype":
        raise ValueError("an array of unknown type")
    return kind.arguments[0]


def _raw(data: str, value: Call) -> Span | bytes:
    """The bytes of an array or scalar."""
    if value.name in REBUILT:
        part = value.state[4]
    else:
        part = value.arguments[0 if value.name in BUFFERS else 1]
    return _image(data, part)


def _flags(data: str, value: Any, content: mmap.mmap) -> list[bool]:
    """Same-person flags, however they were pickled."""
    if isinstance(value, Call) and value.name in ARRAYS:
        raw, kind = _bytes(_raw(data, value), content), _type_of(value)
        if kind not in ("b1", "u1", "i1", "i4", "i8"):
            raise KdbiasError(f"{data}: same-person flags of type {kind}")
        value = np.frombuffer(raw, kind).tolist()
    if not isinstance(value, (list, tuple)):
        raise KdbiasError(f"{data}: the same-person flags are no list")
    flags = []
    for item in value:
        if isinstance(item, Call) and item.name in SCALARS and _type_of(item) == "b1":
            item = _bytes(_raw(data, item), content) != b"\0"
        if not isinstance(item, (bool, int)) or item not in (0, 1):
            raise KdbiasError(f"{data}: a same-person flag is {item!r}, not true or false")
        flags.append(bool(item))
    return flags


def _bytes(part: Span | bytes, content: mmap.mmap) -> bytes:
    """The bytes themselves, read where they lie in the file."""
    return content[part.offset : part.offset + part.length] if isinstance(part, Span) else part
