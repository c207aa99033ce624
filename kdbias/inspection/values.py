"""Values of any file, small enough to show."""

from typing import Any

_TEXT = 60


def short(value: Any) -> Any:
    """A value small enough to show, as JSON."""
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        few = ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value[:3])
        return list(map(short, value)) if len(value) <= 3 else f"[{few}, … {len(value):,} values]"
    if isinstance(value, float):
        return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, str) and len(value) > _TEXT:
        return value[: _TEXT - 1] + "…"
    return value if isinstance(value, str | int | bool) or value is None else str(value)
