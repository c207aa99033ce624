"""What ``inspect`` found, as lines for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kdbias.wording import visible

_WIDTH = 110
_CELL = 24
_COLUMNS_SHOWN = 40


def as_text(found: dict[str, Any]) -> str:
    """A description from :func:`kdbias.inspection.describe.inspect` as text of at most 110 columns a line."""
    lines = [f"{found['path']}: {found['kind']}", f"  {found['summary']}"]
    if found.get("stage"):
        lines.append(f"  written by kdbias {found['stage']}{_version(found.get('provenance') or {})}")
    if found.get("status"):
        lines.append(f"  status: {found['status']}")
    if found.get("counts"):
        lines.append("  counts: " + ", ".join(f"{k} {_value(v)}" for k, v in found["counts"].items()))
    lines += _columns(found.get("columns") or [])
    lines += _rows("first rows", found.get("first_rows") or [])
    lines += _rows("last rows of metrics.csv", found.get("last_rows") or [])
    if found.get("outputs"):
        lines += ["", "  outputs"]
        lines += [f"    {o['path']}  ({o['stage']}, {o['status']})" for o in found["outputs"]]
    if found.get("files"):
        lines += ["", "  files"]
        lines += [f"    {f['name']}  {f['bytes']:,} bytes" for f in found["files"]]
    for key in ("metrics", "content", "facts"):
        if found.get(key):
            lines += ["", f"  {key}", *_document(found[key])]
    if found.get("data"):
        lines += ["", f"  {found['data']}"]
    document = found.get("provenance") or {}
    kept = {
        k: document[k]
        for k in ("teacher", "config", "inputs", "created", "started", "finished", "seconds")
        if k in document
    }
    if kept:
        lines += ["", "  provenance", *_document(kept)]
    return "\n".join(map(visible, lines))


def _version(document: dict[str, Any]) -> str:
    version = document.get("version") or document.get("kdbias")
    return f" {version}" if version else ""


def _columns(columns: Sequence[dict[str, str]]) -> list[str]:
    if not columns:
        return []
    shown = [(visible(c["name"]), c["type"]) for c in columns[:_COLUMNS_SHOWN]]
    width = max(len(name) for name, _ in shown)
    lines = ["", "  columns", *(f"    {name:<{width}}  {kind}" for name, kind in shown)]
    if len(columns) > _COLUMNS_SHOWN:
        lines.append(f"    … {len(columns) - _COLUMNS_SHOWN:,} more")
    return lines


def _rows(title: str, rows: Sequence[Any]) -> list[str]:
    if not rows:
        return []
    if not isinstance(rows[0], dict):
        return ["", f"  {title}", *(f"    {_value(row)}" for row in rows)]
    names = list(rows[0])
    cells = [
        [_cell(name) for name in names],
        *([_cell(_value(row.get(name))) for name in names] for row in rows),
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    shown = len(names)
    while shown > 1 and sum(widths[:shown]) + 2 * shown + 8 > _WIDTH:
        shown -= 1
    more = f"  (and {len(names) - shown} more columns)" if shown < len(names) else ""
    body = [
        "    " + "  ".join(c.ljust(w) for c, w in zip(line, widths[:shown], strict=False)) for line in cells
    ]
    return ["", f"  {title}{more}", *(line.rstrip() for line in body)]


def _cell(text: str) -> str:
    text = visible(text)
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


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


def _document(document: Any) -> list[str]:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return [f"    {line[: _WIDTH - 4]}" for line in text.splitlines()]
