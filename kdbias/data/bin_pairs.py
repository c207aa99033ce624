"""Face verification sets (``lfw.bin``, ``cfp_fp.bin``, ``agedb_30.bin``, ...), read without unpickling.

Such a file is a pickle of (encoded images, same-person flags); images 2i and 2i + 1 form pair i. A pickle
is a program, so it is not run here: its instructions are read one by one by a small machine that knows
    lists, texts, bytes, numbers and NumPy's way of pickling arrays, builds no object, calls nothing and
    refuses the rest.
"""

import mmap
import os
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa

from kdbias.data.digests import digest_of
from kdbias.data.random_access import RandomAccess
from kdbias.data.source import Options, Source, make_source
from kdbias.errors import KdbiasError

_MAX_STEPS = 50_000_000

_CORES = ("numpy.core", "numpy._core")
_REBUILT = frozenset(f"{core}.multiarray._reconstruct" for core in _CORES)
_BUFFERS = frozenset(f"{core}.numeric._frombuffer" for core in _CORES)  # protocol 5
_SCALARS = frozenset(f"{core}.multiarray.scalar" for core in _CORES)
_ARRAYS = _REBUILT | _BUFFERS
_HARMLESS = _ARRAYS | _SCALARS | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}


def read_pairs(path: str | os.PathLike[str]) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """The pairs of a verification set.

    Returns:
        (m,) ids of the first images, (m,) ids of the second (as the source of ``open_bin`` has them), and
        (m,) bool, true where both show the same person.

    Raises:
        KdbiasError: not such a file, or it contains code.
    """
    images, same = _parse(str(path))
    ids = _ids(str(path), len(images))
    return ids.take(pa.array(range(0, len(ids), 2))), ids.take(pa.array(range(1, len(ids), 2))), same


def open_bin(data: str, options: Options) -> Source:
    """Open the images of a verification set: ids are "<file name>/<number>", groups ``pair`` and ``same``.

    The fingerprint covers the content of the file.

    Raises:
        KdbiasError: not such a file, or it contains code.
    """
    options.refuse_columns(f"verification set {data}")
    images, same = _parse(data)
    pairs = np.repeat(np.arange(len(same)), 2)
    return make_source(
        "bin",
        data,
        _ids(data, len(images)),
        BinImages(os.path.abspath(data), images),
        [digest_of(data)],
        groups={"pair": pa.array(pairs), "same": pa.array(np.repeat(same, 2))},
    )


def _ids(data: str, n: int) -> pa.Array:
    stem = os.path.splitext(os.path.basename(data))[0]
    return pa.array([f"{stem}/{i:06d}" for i in range(n)], pa.large_string())


@dataclass(frozen=True)
class _Span:
    """Bytes that lie in the file."""

    offset: int
    length: int


class BinImages:
    """Images of a verification set by their place in the file.

    Args:
        file: absolute path.
        images: a span of the file each, or the bytes where the pickle holds them in another encoding.
    """

    def __init__(self, file: str, images: list["_Span | bytes"]) -> None:
        spans = [image if isinstance(image, _Span) else _Span(0, 0) for image in images]
        self._spans = np.array([(s.offset, s.length) for s in spans], np.int64).reshape(-1, 2)
        self._held = {i: image for i, image in enumerate(images) if isinstance(image, bytes)}
        self._file = RandomAccess([file])

    def read(self, row: int) -> bytes:
        if row in self._held:
            return self._held[row]
        offset, length = self._spans[row]
        return self._file.read(0, int(offset), int(length))

    def location(self, row: int) -> str:
        return f"{os.path.basename(self._file.files[0])}#{row}"


def _parse(data: str) -> tuple[list[_Span | bytes], np.ndarray]:
    try:
        with open(data, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            value = _Machine(data, content).run()
            if not (isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], list)):
                raise KdbiasError(f"{data}: not a pickled pair (images, same-person flags)")
            images = [_image(data, item) for item in value[0]]
            same = np.array(_flags(data, value[1], content), bool)
    except OSError as error:
        raise KdbiasError(f"{data}: cannot be read ({error.strerror or error})") from None
    except KdbiasError:
        raise
    except (ValueError, IndexError, TypeError, KeyError, UnicodeDecodeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KdbiasError(f"{data}: not a verification set: damaged or truncated pickle ({text})") from None
    if len(images) != 2 * len(same) or not images:
        raise KdbiasError(f"{data}: {len(images):,} images for {len(same):,} pairs; two a pair are needed")
    return images, same


@dataclass
class _Call:
    """What the pickle would have called, and with what; never carried out."""

    name: str
    arguments: Any
    state: Any = field(default=None)


@dataclass(frozen=True)
class _Name:
    name: str


_MARK = object()


class _Machine:
    """Walks over a pickle's instructions, keeping values and spans of the file only."""

    def __init__(self, data: str, content: mmap.mmap) -> None:
        self.data = data
        self.content = content
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.module = ""

    def run(self) -> Any:
        for step, (opcode, argument, position) in enumerate(
            pickletools.genops(cast("IO[bytes]", self.content))
        ):
            if step > _MAX_STEPS:
                raise KdbiasError(
                    f"{self.data}: more than {_MAX_STEPS:,} instructions; not a verification set"
                )
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument, position or 0)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any, position: int) -> None:
        if name in _BYTES:
            start = position + _BYTES[name]
            length = self.content.tell() - start
            self.stack.append(_Span(start, length))
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise KdbiasError(
                f"{self.data}: refused: the pickle uses {name}, which a verification set never does"
            )

    def to_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("stack underflow")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("appends to what is no list")
        self.stack[-1].extend(items)

    def remember(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def name(self, full: str) -> None:
        if full not in _HARMLESS:
            raise KdbiasError(
                f"{self.data}: refused: the pickle asks for {full}, so it could run code; kdbias does "
                "not execute it"
            )
        self.stack.append(_Name(full))

    def call(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        self.stack.append(_Call(function.name, arguments))

    def build(self) -> None:
        (state,) = self.take(1)
        if not isinstance(self.stack[-1], _Call):
            raise ValueError("a state for what has none")
        self.stack[-1].state = state


_BYTES = {
    "BINSTRING": 5,
    "SHORT_BINSTRING": 2,
    "BINBYTES": 5,
    "SHORT_BINBYTES": 2,
    "BINBYTES8": 9,
    "BYTEARRAY8": 9,
}
"""Instructions that carry bytes -> how many bytes of instruction come before them."""

_VALUES = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING"),
    ]
)
_CONSTANTS: dict[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "MARK": _MARK,
}

_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.stack.append(m.to_mark()),
    "APPEND": lambda m, _: m.extend(m.take(1)),
    "APPENDS": lambda m, _: m.extend(m.to_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.take(3))),
    "PUT": lambda m, key: m.remember(int(key)),
    "BINPUT": lambda m, key: m.remember(key),
    "LONG_BINPUT": lambda m, key: m.remember(key),
    "MEMOIZE": lambda m, _: m.remember(None),
    "GET": lambda m, key: m.stack.append(m.memo[int(key)]),
    "BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "POP": lambda m, _: m.stack.pop(),
    "GLOBAL": lambda m, text: m.name(text.replace(" ", ".")),
    "STACK_GLOBAL": lambda m, _: m.name(".".join(str(part) for part in m.take(2))),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}


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
    if value.name in _REBUILT:
        part = value.state[4]
    else:
        part = value.arguments[0 if value.name in _BUFFERS else 1]
    return _image(data, part)


def _flags(data: str, value: Any, content: mmap.mmap) -> list[bool]:
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
    return content[part.offset : part.offset + part.length] if isinstance(part, _Span) else part
