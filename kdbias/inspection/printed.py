"""What ``inspect`` found, as lines for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from kdbias.display.table import aligned, more
from kdbias.wording import counted, cut, visible

_WIDTH = 110
_CELL = 24
_LONG = 40  # columns listed
_PROVENANCE = ("teacher", "config", "inputs", "created", "started", "finished", "seconds")


def as_text(found: Mapping[str, Any]) -> str:
    """A description from :func:`kdbias.inspection.describe.inspect` as text of at most 110 columns a line."""
    document = found.get("provenance") or {}
    lines = _opening(found, document)
    lines += _columns(found.get("columns") or [])
    lines += _table("first rows", found.get("first_rows") or [])
    lines += _table("last rows of metrics.csv", found.get("last_rows") or [])
    outputs = found.get("outputs", ())
    lines += _list("outputs", (f"{o['path']}  ({o['stage']}, {o['status']})" for o in outputs))
    lines += _list("files", (f"{f['name']}  {counted(f['bytes'], 'byte')}" for f in found.get("files", ())))
    for key in ("metrics", "content", "facts"):
        lines += _document(key, found.get(key))
    if found.get("data"):
        lines += ["", f"  {found['data']}"]
    lines += _document("provenance", {key: document[key] for key in _PROVENANCE if key in document})
    return "\n".join(map(visible, lines))


def _opening(found: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """The lines above the sections: what it is, which command wrote it and how far that got."""
    lines = [f"{found['path']}: {found['kind']}", f"  {found['summary']}"]
    if found.get("stage"):
        version = document.get("version") or document.get("kdbias") or ""
        lines.append(f"  written by kdbias {found['stage']} {version}".rstrip())
    if found.get("status"):
        lines.append(f"  status: {found['status']}")
    if found.get("counts"):
        lines.append("  counts: " + ", ".join(f"{k} {_value(v)}" for k, v in found["counts"].items()))
    return lines


def _list(title: str, lines: Iterable[str]) -> list[str]:
    """A titled section of lines; nothing where there are none."""
    indented = [f"    {line}" for line in lines]
    return ["", f"  {title}", *indented] if indented else []


def _columns(columns: Sequence[Mapping[str, str]]) -> list[str]:
    """The section of columns with their types."""
    width = max((len(visible(column["name"])) for column in columns[:_LONG]), default=0)
    lines = [f"{visible(column['name']):<{width}}  {column['type']}" for column in columns[:_LONG]]
    return _list("columns", [*lines, *more(len(columns), "kdbias inspect --json", _LONG)])


def _table(title: str, rows: Sequence[Any]) -> list[str]:
    """Rows that are mappings with the columns that fit beside each other; others a line each."""
    if not rows or not isinstance(rows[0], dict):
        return _list(title, map(_value, rows))
    names = list(rows[0])
    lines = [names, *([_value(row.get(name)) for name in names] for row in rows)]
    lines = [[cut(visible(text), _CELL) for text in line] for line in lines]
    ends = accumulate(2 + max(map(len, column)) for column in zip(*lines, strict=True))
    shown = max(1, sum(end + 8 <= _WIDTH for end in ends))
    hidden = f"  (and {counted(len(names) - shown, 'more column')})" if shown < len(names) else ""
    body = aligned(lines[0][:shown], [line[:shown] for line in lines[1:]])
    return _list(title + hidden, body.splitlines())


def _value(value: Any) -> str:
    """A value as text: numbers with commas or 6 significant digits."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value).lower() if isinstance(value, bool) else f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _document(title: str, document: Any) -> list[str]:
    """A section with a document as indented JSON."""
    text = json.dumps(document, indent=2, ensure_ascii=False) if document else ""
    return _list(title, (line[: _WIDTH - 4] for line in text.splitlines()))
