"""What a notebook may call: names of parameters, their defaults, and which are keyword-only."""

import inspect
from collections.abc import Callable
from typing import Any

import kdbias


def plain(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return "(required)"
    if isinstance(default, tuple | list):
        return list(default)
    return default if default is None or isinstance(default, str | int | float) else repr(default)


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Name -> default and whether it is keyword-only."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in ("self", "cls"):
            keyword_only = parameter.kind is parameter.KEYWORD_ONLY
            found[name] = {"default": plain(parameter.default), "keyword_only": keyword_only}
    return found


def public(kind: type) -> dict[str, Any]:
    """The public methods of a class, and its constructor."""
    found = {}
    for name, member in inspect.getmembers(kind):
        if name == "__init__" or not name.startswith("_"):
            is_function = inspect.isfunction(member) or inspect.ismethod(member)
            found[name] = parameters(member) if is_function else type(member).__name__
    return found


def test_signatures(recorded):
    found: dict[str, Any] = {}
    for name in kdbias.__all__:
        value = getattr(kdbias, name)
        if inspect.isclass(value):
            found[name] = {} if issubclass(value, Exception) else public(value)
        elif callable(value):
            found[name] = parameters(value)
        else:
            found[name] = type(value).__name__
    recorded("signatures", found)
    assert list(inspect.signature(kdbias.train).parameters)[:2] == ["data", "output"]
