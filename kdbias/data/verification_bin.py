"""Face verification sets (``lfw.bin``, ``cfp_fp.bin``, ``agedb_30.bin``, ...), read without unpickling.

Such a file is a pickle of (encoded images, same-person flags); images 2i and 2i + 1 form pair i. A pickle is
a program. Here its instructions are read one by one by a small machine that knows lists, texts, bytes,
numbers and what NumPy's arrays are rebuilt by; it builds no object, calls nothing and refuses the rest.
"""

import mmap
import os
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.access import digest_of
from kdbias.data.settings import Options
from kdbias.data.sharded import RandomAccess, Sharded
from kdbias.data.source import Source, make_source, numbered_parts
from kdbias.errors import KdbiasError, first_line

_MAX_STEPS = 50_000_000

_CORES = ("numpy.core", "numpy._core")
REBUILT = frozenset(f"{core}.multiarray._reconstruct" for core in _CORES)
BUFFERS = frozenset(f"{core}.numeric._frombuffer" for core in _CORES)  # protocol 5
SCALARS = frozenset(f"{core}.multiarray.scalar" for core in _CORES)
ARRAYS = REBUILT | BUFFERS
_HARMLESS = ARRAYS | SCALARS | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}


@dataclass(frozen=True)
class Span:
    """Bytes that lie in the file."""

    offset: int
    length: int


@dataclass
class Call:
    """What the pickle would have called, and with what; never carried out."""

    name: str
    arguments: Any
    state: Any = field(default=None)


@dataclass(frozen=True)
class _Name:
    name: str


_MARK = object()


class Machine:
    """Walks over a pickle's instructions, keeping values and spans of the file only.

    ``run`` gives the pickled value: lists, tuples, numbers and texts as they are, bytes as :class:`Span`, and
    :class:`Call` for whatever would have been called.

    Args:
        data: the file's name, for messages.
        content: the mapped file.
    """

    def __init__(self, data: str, content: mmap.mmap) -> None:
        self.data = data
        self.content = content
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.module = ""

    def run(self) -> Any:
        """The pickled value, with calls kept as :class:`Call` and nothing executed."""
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
            self.stack.append(Span(start, length))
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
        """Take the values above the last mark off the stack."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def take(self, count: int) -> list[Any]:
        """Take the top `count` values off the stack."""
        if len(self.stack) < count:
            raise ValueError("stack underflow")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def extend(self, items: list[Any]) -> None:
        """Append values to the list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("appends to what is no list")
        self.stack[-1].extend(items)

    def remember(self, key: int | None) -> None:
        """Keep the top value under a key, by default the next number."""
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def name(self, full: str) -> None:
        """Put a harmless function's name on the stack; refuse every other."""
        if full not in _HARMLESS:
            raise KdbiasError(
                f"{self.data}: refused: the pickle asks for {full}, so it could run code; kdbias does "
                "not execute it"
            )
        self.stack.append(_Name(full))

    def call(self) -> None:
        """Replace a function and its arguments by a :class:`Call`."""
        function, arguments = self.take(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        self.stack.append(Call(function.name, arguments))

    def build(self) -> None:
        """Give a call the state that the pickle sets for it."""
        (state,) = self.take(1)
        if not isinstance(self.stack[-1], Call):
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

_ACTIONS: dict[str, Callable[[Machine, Any], Any]] = {
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
    return content[part.offset : part.offset + part.length] if isinstance(part, Span) else part
