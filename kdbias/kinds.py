"""The kind of value that a type hint asks for, numbers and sizes of that kind, and how values are written."""

import math
import numbers
import re
import types
import typing
from typing import Any

LARGEST_SIDE = 16_384
"""Pixels that an image may be made high or wide."""
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def kind_of(hint: Any) -> tuple[type, bool, bool]:
    """The type of one value, whether there may be several (a tuple), and whether None may stand for it."""
    members = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
    optional = members != [hint] and len(members) < len(typing.get_args(hint))
    first = members[0]
    if typing.get_origin(first) is tuple:
        return typing.get_args(first)[0], True, optional
    return first, False, optional


def number_of(kind: type, value: Any) -> Any:
    """A finite int or float of this kind, of Python or NumPy; ValueError that goes on after its name."""
    wanted = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise ValueError(f"is {value!r}, should be a {'whole ' if kind is int else ''}number")
    value = value.item() if hasattr(value, "item") else value  # of NumPy
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"is {value}, should be finite")
    return value


def size_of(sides: Any, given: Any = None, wanted: str = "[height, width]") -> tuple[int, int]:
    """(height, width) in pixels of two whole numbers.

    Raises ValueError that goes on after the option's name: that what was `given` should be what is `wanted`.
    """
    try:
        in_order = sides.tolist() if hasattr(sides, "tolist") else sides  # of NumPy
        height, width = (number_of(int, side) for side in in_order if isinstance(in_order, list | tuple))
    except (TypeError, ValueError):
        raise ValueError(f"is {sides if given is None else given!r}, should be {wanted}") from None
    if not 1 <= min(height, width) <= max(height, width) <= LARGEST_SIDE:
        raise ValueError(f"is {height}x{width}, both sides should be at least 1 and at most {LARGEST_SIDE:,}")
    return height, width


def seconds_of(value: Any) -> float:
    """Seconds of a time such as ``90s``, ``10m``, ``1.5h``, or of a number.

    Raises ValueError that goes on after the option's name.
    """
    match = _TIME.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is not None:
        seconds = float(match[1]) * _UNITS[match[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"is {value!r}, should be a time above 0, such as 90s, 10m or 2h")
    return seconds


def spelled(value: Any) -> str:
    """A value as a reader sees it."""
    if isinstance(value, tuple):
        return ",".join(map(spelled, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def json_of(value: Any) -> Any:
    """The value with tuples as lists."""
    return [json_of(item) for item in value] if isinstance(value, tuple) else value
