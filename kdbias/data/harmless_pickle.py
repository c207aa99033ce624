"""A pickle's lists, texts, bytes, numbers and arrays, read without unpickling.

A pickle is a program. Here its instructions are read one by one by a small machine that builds no object,
calls nothing and refuses the rest.
"""

import mmap
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, cast

from kdbias.errors import KdbiasError

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
