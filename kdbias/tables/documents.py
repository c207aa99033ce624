"""JSON and TOML documents: read, checked against what they should hold, or refused in one line.

What `write_json` writes carries the digest of its content; `read_json` compares and drops it. Documents
without one, by other programs or by earlier versions, are read all the same.
"""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError, first_line
from kdbias.scratch import recorded
from kdbias.tables.files import MEND, absent, refuse_special, write_text

DIGEST = "digest"
_MARK = "content "  # begins the digest's value, so that it is known even where its name is damaged
_DEPTH = 64  # levels; what prints or compares documents goes down by itself
_LARGEST = sys.float_info.max
Shape = Any
"""What a value should be: ``str``, ``int``, ``bool``; ``float`` (any finite number); ``object`` (anything);
``None``; a tuple of such (one of them); ``[shape]`` (a list of); ``{"key": shape, "optional?": shape}``;
``{str: shape}`` (an object with any keys)."""


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write strict JSON (no NaN) atomically, indented for people; an object gets its digest."""
    if isinstance(obj, dict):
        plain = json.loads(json.dumps(recorded(obj), allow_nan=False))  # as it is read back
        plain.pop(DIGEST, None)
        obj = plain | {DIGEST: _digest(plain)}
    write_text(path, _rendered(obj))


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        KdbiasError: no such file, no JSON, or its digest says that it is not what was written.
    """
    text = _bytes(path)
    content = parse_json(text, path)
    if isinstance(content, dict) and content:
        # One bit adds one line at most (0.9 to 0,9): where more differ, another program wrote the file.
        own_layout = abs(text.count(b"\n") - _rendered(content).count("\n")) <= 1
        name, value = next(reversed(content.items()))
        if name == DIGEST or (isinstance(value, str) and value.startswith(_MARK)):
            del content[name]
            if own_layout and (name != DIGEST or value != _digest(content)):
                raise KdbiasError(
                    f"{path} is damaged: its content is not what was written; {MEND} (whoever edited it on "
                    f"purpose takes out its entry {name!r})"
                )
    return content


def read_document(path: str | os.PathLike[str], shape: dict[Any, Shape]) -> dict[str, Any]:
    """A JSON object of a shape.

    Raises:
        KdbiasError: no such file, no JSON, or what is missing or of another kind (it is named).
    """
    content = read_json(path)
    require_shape(content, shape, path)
    return content


def parse_json(text: str | bytes, where: object, strict: bool = True) -> Any:
    """JSON of at most 64 levels; in ``strict`` JSON names are unique, and numbers finite floats can hold.

    Raises:
        KdbiasError: it is none; ``where`` it stands is named.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_doubles if strict else None)
        require_levels(content)
        _require_writable(content, strict)
    except (ValueError, RecursionError) as error:
        raise KdbiasError(f"{where}: not a JSON file ({_reason(error)}); {MEND}") from None
    return content


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        KdbiasError: no such file, or no TOML of at most 64 levels.
    """
    text = _bytes(path)
    try:
        content = tomllib.loads(text.decode("utf-8"))
        require_levels(content)
    except (ValueError, RecursionError) as error:
        raise KdbiasError(f"{path}: not a TOML file ({_reason(error)})") from None
    return content


def require_shape(value: Any, shape: Shape, where: object, name: str = "") -> None:
    """Refuse a value that is not of a shape.

    Raises:
        KdbiasError: it names ``where``, the entry, and what that should be.
    """
    wrong = _mismatch(value, shape, name)
    if wrong:
        raise KdbiasError(f"{where}: {wrong}; {MEND}")


def _rendered(obj: Any) -> str:
    """JSON as it lands on disk."""
    return json.dumps(obj, indent=2, allow_nan=False) + "\n"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these names and values; raises ValueError where a name occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _digest(content: dict[str, Any]) -> str:
    """What stands under `DIGEST` for a content without it."""
    from kdbias.tables.fingerprints import of_json  # NumPy with it, which --help does without

    return _MARK + of_json(content)


def _reason(error: Exception) -> str:
    """One line on why a text is no document."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return first_line(error).partition("; use sys.")[0]  # Python's advice to its programmers


def _bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; raises KdbiasError where there is none."""
    refuse_special(path)
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise absent(path) from None
    except IsADirectoryError:
        raise KdbiasError(f"{path} is a folder; a file is needed here") from None


def require_levels(value: Any, level: int = 0) -> None:
    """Raise ValueError where objects and lists are nested deeper than whoever prints them goes."""
    if level > _DEPTH:
        raise ValueError(f"more than {_DEPTH} levels")
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            require_levels(item, level + 1)


def _require_writable(value: Any, strict: bool) -> None:
    """Raise ValueError for what no program should have written: half a character, a number that is none."""
    if isinstance(value, dict | list):
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            _require_writable(item, strict)
    elif isinstance(value, str):
        value.encode()
    elif strict and isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST:
        raise ValueError("a number that is not finite, or larger than any that is written")


_NAMES = {str: "a text", int: "an integer", bool: "true or false", float: "a number", None: "null"}


def _mismatch(value: Any, shape: Shape, name: str) -> str | None:
    """What is wrong first, or None."""
    if shape is object:
        return None
    if isinstance(shape, tuple):
        found = [_mismatch(value, one, name) for one in shape]
        return None if None in found else found[-1]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name or 'its content'} is no list"
        wrong = (_mismatch(item, shape[0], f"{name}[{i}]") for i, item in enumerate(value))
        return next(filter(None, wrong), None)
    if isinstance(shape, dict):
        return _mismatch_of_object(value, shape, name)
    return None if _fits(value, shape) else f"{name or 'its content'} should be {_NAMES[shape]}"


def _fits(value: Any, shape: type | None) -> bool:
    """Whether a value is of one of the kinds in `_NAMES`; true and false are no numbers."""
    if shape is None:
        return value is None
    if isinstance(value, bool):
        return shape is bool
    if shape is float:
        return isinstance(value, int | float) and -_LARGEST <= value <= _LARGEST
    return isinstance(value, shape)


def _mismatch_of_object(value: Any, shape: dict[Any, Shape], name: str) -> str | None:
    """`_mismatch` for shapes that are objects."""
    if not isinstance(value, dict):
        return f"{name or 'its content'} should be an object"
    below = f"{name}." if name else ""
    if str in shape:
        found = (_mismatch(item, shape[str], f"{below}{key}") for key, item in value.items())
        return next(filter(None, found), None)
    missing = [key for key in shape if not key.endswith("?") and key not in value]
    if missing:
        return f"it lacks {', '.join(f'{below}{key}' for key in missing)}"
    for key, inner in shape.items():
        key = key.removesuffix("?")
        if key in value and (wrong := _mismatch(value[key], inner, f"{below}{key}")):
            return wrong
    return None
