"""Which columns tell groups apart: neither one value for all samples, nor another one for each."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from kdbias.tables.joins import as_strings
from kdbias.wording import visible

_ALIKE, _APART = "one value for all samples", "another value for each sample"


def telling(columns: Iterable[tuple[str, pa.Array]]) -> tuple[list[str], str | None]:
    """The names of columns that tell groups apart, and one line about the others, None where there are none.

    Args:
        columns: name and (n,) values. Of a column without any value nothing is said.
    """
    kept, reasons = [], {}
    for name, values in columns:
        if values.null_count == len(values):
            continue
        sizes = as_strings(values).drop_null().value_counts().field("counts").to_pylist()
        why = no_groups(sizes, len(values))
        if why is None:
            kept.append(name)
        else:
            reasons[name] = why
    return kept, left_out(reasons)


def no_groups(sizes: Sequence[int], n: int) -> str | None:
    """Why a column makes no groups of n samples; None where it does.

    Args:
        sizes: samples of each of its values.
    """
    if len(sizes) == 1 and sizes[0] == n > 1:
        return _ALIKE
    return _APART if len(sizes) > 1 and max(sizes) == 1 else None


def left_out(reasons: dict[str, str]) -> str | None:
    """One line about columns that make no groups, by name; None where there are none."""
    named = {why: [name for name in reasons if reasons[name] == why] for why in (_ALIKE, _APART)}
    said = [f"{', '.join(map(visible, names))} ({why})" for why, names in named.items() if names]
    return f"left out, as no groups: {'; '.join(said)}" if said else None
