"""What ``inspect`` found, as lines for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from kdbias.display.table import aligned, more
from kdbias.wording import visible

_WIDTH = 110
_CELL = 24
_LONG = 40  # lines of a list of columns, files or outputs
_PROVENANCE = ("teacher", "config", "inputs", "created", "started", "finished", "seconds")


def as_text(found: Mapping[str, Any]) -> str:
    """A description from :func:`kdbias.inspection.describe.inspect` as text of at most 110 columns a line."""
    lines = [f"{found['path']}: {found['kind']}", f"  {found['summary']}"]
    document = found.get("provenance") or {}
    if found.get("stage"):
        version = document.get("version") or document.get("kdbias") or ""
        lines.append(f"  written by kdbias {found['stage']} {version}".rstrip())
    if found.get("status"):
        lines.append(f"  status: {found['status']}")
    if found.get("counts"):
        lines.append("  counts: " + ", ".join(f"{k} {_value(v)}" for k, v in found["counts"].items()))
    for title in ("columns", "first rows", "last rows", "outputs", "files"):
        of_data = title.endswith("rows")
        limits = (None, _CELL) if of_data else (_LONG, _WIDTH)
        lines += _table(title, found.get(title.replace(" ", "_")) or [], *limits)
    for key in ("metrics", "content", "facts"):
        lines += _document(key, found.get(key))
    if found.get("data"):
        lines += ["", f"  {found['data']}"]
    lines += _document("provenance", {key: document[key] for key in _PROVENANCE if key in document})
    return "\n".join(map(visible, lines))


def _table(title: str, rows: Sequence[Any], most: int | None, longest: int) -> list[str]:
    """Rows that are mappings with the columns that fit beside each other; others a line each."""
    if not rows:
        return []
    if not isinstance(rows[0], dict):
        return ["", f"  {title}", *(f"    {_value(row)}" for row in rows)]
    names = list(rows[0])
    lines = [names, *([_value(row.get(name)) for name in names] for row in rows[:most])]
    lines = [[_cut(visible(text), longest) for text in line] for line in lines]
    ends = accumulate(2 + max(map(len, column)) for column in zip(*lines, strict=True))
    shown = max(1, sum(end + 8 <= _WIDTH for end in ends))
    hidden = f"  (and {len(names) - shown} more columns)" if shown < len(names) else ""
    body = aligned(lines[0][:shown], [line[:shown] for line in lines[1:]]).splitlines()
    body += more(len(rows), "kdbias inspect --json", most or len(rows))
    return ["", f"  {title}{hidden}", *(f"    {line}" for line in body)]


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _document(title: str, document: Any) -> list[str]:
    if not document:
        return []
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return ["", f"  {title}", *(f"    {line[: _WIDTH - 4]}" for line in text.splitlines())]
