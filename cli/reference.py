"""What is written from the declarations: docs/commands.md, and what editors see of `import kdbias`.

`python -m kdbias.cli.reference` in the root of the repository (`make docs`) writes both.
"""

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kdbias.cli import COMMANDS, main

WIDTH = 100
COMPLETION = """\
**Tab completes** commands, options, their values, and paths, once the shell knows of it:

```text
bash >= 4.4   in ~/.bashrc                              eval "$(_KDBIAS_COMPLETE=bash_source kdbias)"
zsh           in ~/.zshrc                               eval "$(_KDBIAS_COMPLETE=zsh_source kdbias)"
fish          in ~/.config/fish/completions/kdbias.fish _KDBIAS_COMPLETE=fish_source kdbias | source
```
"""
_OF_OPTIONS = {
    "Any": "from typing import Any",
    "Mapping": "from collections.abc import Mapping",
    "Sequence": "from collections.abc import Sequence",
    "os": "import os",
}
"""Name in the type of an option -> how it is imported."""


def help_text(name: str | None = None) -> str:
    """What `kdbias [name] --help` prints, at a fixed width."""
    root = click.Context(main, info_name="kdbias", terminal_width=WIDTH, **main.context_settings)
    if name is None:
        return main.get_help(root)
    command = main.get_command(root, name)
    assert command is not None
    return command.get_help(click.Context(command, root, info_name=name, terminal_width=WIDTH))


def render() -> str:
    """The whole reference as Markdown."""
    parts = ["# Commands\n\nWhat `kdbias COMMAND --help` prints; made by `make docs`.\n", COMPLETION]
    parts += [f"## kdbias {name}\n\n```text\n{help_text(name)}\n```\n" for name in COMMANDS]
    return "\n".join(parts)


def stub() -> str:
    """The type stub of the package, `kdbias/__init__.pyi`.

    A function of settings is spelled out: the names, types, defaults and meanings of its options, its result.
    Every other public name is found where it is defined.
    """
    import kdbias

    imports, functions = set[str](), []
    for name in kdbias.__all__:
        value = getattr(kdbias, name)
        if hasattr(value, "settings"):
            functions.append(_spelled_out(name, value, imports))
        else:
            home = getattr(value, "__module__", "kdbias.version")  # a text has none
            imports.add(f"from {home} import {name} as {name}")
    remark = '"""What editors and type checkers see of `import kdbias`; made by `make docs`."""'
    listed = ["", "__all__ = [", *(f'    "{name}",' for name in kdbias.__all__), "]"]
    return "\n".join([remark, "", *sorted(imports), *listed, *functions, ""])


def _spelled_out(name: str, function: Callable[..., Any], imports: set[str]) -> str:
    """The function with its signature and its docstring; adds what its types need to `imports`."""
    module, signature = function.__module__, inspect.signature(function)

    def written(annotation: Any) -> str:
        if isinstance(annotation, type) and annotation.__module__ not in ("builtins", module):
            imports.add(f"from {annotation.__module__} import {annotation.__name__}")
            return annotation.__name__
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation, module)
        text = text.replace("collections.abc.", "")
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        imports.update(known[name] for name in names if not hasattr(builtins, name))
        return text

    known = _OF_OPTIONS | _imports_of(module)
    lines = list[str]()
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"{parameter.name}: {written(parameter.annotation)}{default}")
    document = textwrap.indent(f'"""{inspect.getdoc(function)}\n"""'.replace("\\", "\\\\"), "    ")
    body = "".join(f"\n    {line}," for line in lines)
    return f"\ndef {name}({body}\n) -> {written(signature.return_annotation)}:\n{document}"


def _imports_of(module: str) -> dict[str, str]:
    """Name -> the line that imports it, for all that a module imports or defines."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.ClassDef):
            found[node.name] = f"from {module} import {node.name}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            start = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            found |= {a.asname or a.name: f"{start}import {ast.unparse(a)}" for a in node.names}
    return found


if __name__ == "__main__":
    for file, text in {"docs/commands.md": render(), "kdbias/__init__.pyi": stub()}.items():
        Path(file).write_text(text, encoding="utf-8")
