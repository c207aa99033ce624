"""Face verification sets (``lfw.bin``, ``cfp_fp.bin``, ``agedb_30.bin``, ...), read without unpickling.

Such a file is a pickle of (encoded images, same-person flags); images 2i and 2i + 1 form pair i. A pickle is
a program. Here those of its instructions that make lists, texts, numbers and arrays are followed, images stay
where they lie in the file, nothing is called, and the rest is refused.
"""

import mmap
import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.access import digest_of
from kdbias.data.settings import Options
from kdbias.data.sharded import RandomAccess, Sharded
from kdbias.data.source import Source, make_source, numbered_parts
from kdbias.errors import KdbiasError, first_line
from kdbias.wording import counted

_MAX_STEPS = 50_000_000
_CORES = ("numpy.core", "numpy._core")
_REBUILT = frozenset(f"{core}.multiarray._reconstruct" for core in _CORES)
_BUFFERS = frozenset(f"{core}.numeric._frombuffer" for core in _CORES)  # protocol 5
_SCALARS = frozenset(f"{core}.multiarray.scalar" for core in _CORES)
_ARRAYS = _REBUILT | _BUFFERS
_HARMLESS = _ARRAYS | _SCALARS | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}

_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_FOLLOWED = (
    *("MARK", "STOP", "PROTO", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("STRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "POP"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
)
_WIDTHS = {"SHORT_BINSTRING": 1, "SHORT_BINBYTES": 1, "BINSTRING": 4, "BINBYTES": 4}
_WIDTHS |= {"BINBYTES8": 8, "BYTEARRAY8": 8}
"""Instructions that carry bytes -> how many of them say how many."""
_OF_PICKLE = (pickle.UnpicklingError, struct.error, EOFError, RecursionError)
_DAMAGE = (*_OF_PICKLE, ValueError, LookupError, TypeError, AttributeError, OverflowError)


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
        names = sorted(name for name in os.listdir(data) if name.lower().endswith(".bin"))
        files = [os.path.join(data, name) for name in names if not name.startswith(".")]
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

    def __init__(self, files: list[str], images: list[list["_Span | bytes"]]) -> None:
        super().__init__([len(of_file) for of_file in images], [os.path.basename(file) for file in files])
        every = [image for of_file in images for image in of_file]
        spans = [image if isinstance(image, _Span) else _Span(0, 0) for image in every]
        self._spans = np.array([(s.offset, s.length) for s in spans], np.int64).reshape(-1, 2)
        self._given = {i: image for i, image in enumerate(every) if isinstance(image, bytes)}
        self._files = RandomAccess(files)

    def read(self, row: int) -> bytes:
        """The encoded bytes of a row's image."""
        if row in self._given:
            return self._given[row]
        return self._files.read(self.place(row)[0], *self._spans[row].tolist())


@dataclass(frozen=True)
class _Span:
    """Bytes that lie in the file."""

    offset: int
    length: int


@dataclass
class _Call:
    """What the pickle would have called, and with what; never carried out."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


@dataclass(frozen=True)
class _Name:
    """A harmless function, which makes a :class:`_Call` of its arguments."""

    name: str

    def __call__(self, *arguments: Any) -> _Call:
        return _Call(self.name, arguments)


class _Instructions(dict[int, Any]):
    """What each instruction does to the reader; others are refused, and so are too many."""

    def __init__(self, data: str) -> None:
        super().__init__({_CODES[name]: pickle._Unpickler.dispatch[_CODES[name]] for name in _FOLLOWED})
        self.update({_CODES[name]: _passed_over(width) for name, width in _WIDTHS.items()})
        self[_CODES["FRAME"]] = lambda reader: reader.read(8)  # what it holds is read as if it were none
        self.data, self.taken = data, 0

    def __getitem__(self, code: int) -> Any:
        self.taken += 1
        if self.taken > _MAX_STEPS:
            raise KdbiasError(f"{self.data}: more than {_MAX_STEPS:,} instructions; not a verification set")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Any:
        name = next((name for name, known in _CODES.items() if known == code), f"instruction {code}")
        raise KdbiasError(
            f"{self.data}: not a verification set; refused: the pickle uses {name}, which none ever does"
        )


def _passed_over(width: int) -> Callable[[Any], None]:
    """An instruction with bytes, `width` of which say how many: they become a span of the file."""

    def instruction(reader: Any) -> None:
        length = int.from_bytes(reader.read(width), "little")
        start = reader.content.tell()
        reader.content.seek(length, os.SEEK_CUR)  # ValueError behind the file's end
        reader.append(_Span(start, length))

    return instruction


class _Reader(pickle._Unpickler):
    """Follows a pickle's instructions: ``load`` gives lists, tuples, numbers and texts as they are, bytes as
    :class:`_Span`, and :class:`_Call` for whatever would have been called.

    The instructions are those of the unpickler that is written in Python, each a few lines on a list of
    values; the one in C takes room for as many values as a damaged file announces.

    Args:
        data: the file's name, for messages.
        content: the mapped file.
    """

    def __init__(self, data: str, content: mmap.mmap) -> None:
        super().__init__(content)
        self.data, self.content = data, content
        self.dispatch = _Instructions(data)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for a harmless function; every other is refused."""
        full = f"{module}.{name}"
        if full not in _HARMLESS:
            raise KdbiasError(
                f"{self.data}: refused: the pickle asks for {full}, so it could run code; kdbias does not "
                "execute it"
            )
        return _Name(full)


def _parse(data: str) -> tuple[list[_Span | bytes], np.ndarray]:
    """The encoded images, and whether each pair shows one person, bool (pairs,)."""
    try:
        with open(data, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            value = _Reader(data, content).load()
            if not (isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], list)):
                raise KdbiasError(f"{data}: not a pickled pair (images, same-person flags)")
            images = [_image(data, item) for item in value[0]]
            same = np.array(_flags(data, value[1], content), bool)
    except KdbiasError:
        raise
    except _DAMAGE as error:
        text = first_line(error)
        raise KdbiasError(f"{data}: not a verification set: damaged or truncated pickle ({text})") from None
    if len(images) != 2 * len(same) or not images:
        raise KdbiasError(
            f"{data}: {counted(len(images), 'image')} for {counted(len(same), 'pair')}; two a pair are needed"
        )
    return images, same


def _image(data: str, item: Any) -> _Span | bytes:
    """Encoded bytes of one image, however they were pickled."""
    if isinstance(item, _Span):
        return item
    if isinstance(item, _Call) and item.name == "_codecs.encode" and isinstance(item.arguments[0], str):
        return item.arguments[0].encode("latin-1")
    if isinstance(item, _Call) and item.name in _ARRAYS and _type_of(item) in ("u1", "i1"):
        return _raw(data, item)
    raise KdbiasError(f"{data}: an image is pickled as {type(item).__name__}, which kdbias cannot read")


def _type_of(value: _Call) -> str:
    """NumPy's name of the type of an array or scalar ("u1", "b1", "i8"), without byte order."""
    kind = value.state[2] if value.name in _REBUILT else value.arguments[value.name in _BUFFERS]
    if not isinstance(kind, _Call) or kind.name != "numpy.dtype":
        raise ValueError("an array of unknown type")
    return kind.arguments[0]


def _raw(data: str, value: _Call) -> _Span | bytes:
    """The bytes of an array or scalar."""
    in_arguments = 0 if value.name in _BUFFERS else 1
    return _image(data, value.state[4] if value.name in _REBUILT else value.arguments[in_arguments])


def _flags(data: str, value: Any, content: mmap.mmap) -> list[bool]:
    """Same-person flags, however they were pickled."""
    if isinstance(value, _Call) and value.name in _ARRAYS:
        raw, kind = _bytes(_raw(data, value), content), _type_of(value)
        if kind not in ("b1", "u1", "i1", "i4", "i8"):
            raise KdbiasError(f"{data}: same-person flags of type {kind}")
        value = np.frombuffer(raw, kind).tolist()
    if not isinstance(value, (list, tuple)):
        raise KdbiasError(f"{data}: the same-person flags are no list")
    flags = []
    for item in value:
        if isinstance(item, _Call) and item.name in _SCALARS and _type_of(item) == "b1":
            item = _bytes(_raw(data, item), content) != b"\0"
        if not isinstance(item, (bool, int)) or item not in (0, 1):
            raise KdbiasError(f"{data}: a same-person flag is {item!r}, not true or false")
        flags.append(bool(item))
    return flags


def _bytes(part: _Span | bytes, content: mmap.mmap) -> bytes:
    """The bytes themselves, read where they lie in the file."""
    return content[part.offset : part.offset + part.length] if isinstance(part, _Span) else part
