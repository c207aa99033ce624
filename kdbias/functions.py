"""Library functions that take settings by name: signature and docstring follow from the fields."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from kdbias.placing import placed
from kdbias.settings import Declared, Settings

_PATH = "str | os.PathLike[str]"


def takes_settings(kind: type[Settings], file: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Let a function that takes `settings` be called with the options by name.

    Its signature and the `Args:` of its docstring show them; `function.settings` is the class. Options that
    the function names itself (data, output, overwrite, ...) stay as they are. `file` names a further option:
    a TOML file with the same keys, over which options win.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        own = inspect.signature(function, eval_str=False)
        named = [p for name, p in own.parameters.items() if name != "settings"]
        path = {"default": None, "annotation": f"{_PATH} | None"}
        keys = [inspect.Parameter(file, inspect.Parameter.KEYWORD_ONLY, **path)] if file else []

        @functools.wraps(function)
        def call(*inputs: Any, **options: Any) -> Any:
            mine = {p.name: options.pop(p.name) for p in named if p.name in options}
            bound = own.replace(parameters=named).bind(*inputs, **mine)
            bound.arguments = {name: placed(name, value) for name, value in bound.arguments.items()}
            options = {name: placed(name, value) for name, value in options.items()}
            settings = kind.read(options.pop(file, None), options) if file else kind.of(options)
            return function(*bound.args, **bound.kwargs, settings=settings)

        call.settings = kind  # type: ignore[attr-defined]
        call.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*named, *keys, *(_parameter(declared) for declared in kind.declared())]
        )
        call.__doc__ = _documented(inspect.getdoc(function) or "", kind)
        return call

    return decorate


def _parameter(declared: Declared) -> inspect.Parameter:
    """The keyword of a function that stands for an option."""
    kind = inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if declared.required else declared.default
    return inspect.Parameter(declared.name, kind, default=default, annotation=annotation(declared))


def annotation(declared: Declared) -> str:
    """The type of an option as a caller may give it."""
    name = _PATH if declared.about.path else declared.kind.__name__
    name = declared.about.accepts or (f"Sequence[{name}]" if declared.many else name)
    return f"{name} | None" if declared.default is None else name


def _documented(text: str, kind: type[Settings]) -> str:
    """The docstring with a line an option at the end of its `Args:`."""
    entries = [f"{declared.name}: {declared.text}." for declared in kind.declared()]
    lines = [
        textwrap.fill(entry, 110, initial_indent=" " * 4, subsequent_indent=" " * 8) for entry in entries
    ]
    head, args, rest = text.partition("Args:\n")
    if not args:
        return "\n".join([text, "", "Args:", *lines])
    kept, gap, tail = rest.partition("\n\n")
    return "\n".join([head + args + kept, *lines]) + gap + tail
