"""``uniformity.json`` as aligned text for a terminal."""

from collections.abc import Sequence
from typing import Any

from kdbias.wording import counted, visible

FEW = 12  # values of a column that a terminal shows
_NONE = "n/a"
_FAR_BELOW = -9.995
_BANDWIDTH_COLUMNS = ("scheme", "t", "U", "null", "excess", "D", "ceiling", "rectified", "ESS/n")
_SCHEME_COLUMNS = ("scheme", "ESS", "ESS/n", "eff. ids", "easy", "hard", "top 1 %", "max w", "Vendi", "KoLeo")


def summary_table(document: dict[str, Any]) -> str:
    """The numbers of a measurement: a row for each scheme and bandwidth, then one a scheme, then groups.

    Args:
        document: the content of ``uniformity.json``.
    """
    schemes = document["schemes"]
    rows = [_bandwidth_row(s, b) for s in schemes for b in s["bandwidths"]]
    parts = [
        _heading(document),
        *([_search_line(document["search"])] if "probes" in document["search"] else []),
        aligned(_BANDWIDTH_COLUMNS, rows),
        aligned(_SCHEME_COLUMNS, [_scheme_row(s) for s in schemes]),
    ]
    parts += [_group_table(schemes, name) for name in schemes[0]["groups"]]
    reasons = {
        b["rectification_reason"]: b["t"]
        for s in schemes
        for b in s["bandwidths"]
        if b["rectification"] is None and b["rectification_reason"]
    }
    parts += [f"rectified {_NONE} (t={t:g}): {reason}" for reason, t in reasons.items()]
    parts.append(
        "U: uniformity in nats, lower = more even; excess: above a uniform sphere; D: distinct samples that "
        "the draws are worth at this t\n"
        "U leaves out pairs of a sample with itself, D and rectified count them: few samples drawn very "
        "often can be lower in U and yet worth less in D"
    )
    return "\n\n".join(parts)


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns: the first flush left, the others flush right."""
    cells = [list(map(visible, line)) for line in (columns, *rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def first_few(columns: Sequence[str], rows: Sequence[Sequence[str]], where: str) -> str:
    """As :func:`aligned`, with the first ``FEW`` rows alone and a line that says where the others are."""
    return "\n".join([aligned(columns, rows[:FEW]), *more(len(rows), where)])


def more(count: int, where: str) -> list[str]:
    """The line under the first ``FEW`` of ``count`` rows that says where the others are, if there are any."""
    return [f"... and {count - FEW:,} more: {where}"] if count > FEW else []


def rectified(share: float | None) -> str:
    """A rectification in percent; far below natural sampling (0 %) it says no more than that."""
    return "< -999 %" if share is not None and share <= _FAR_BELOW else _percent(share)


def _heading(document: dict[str, Any]) -> str:
    search, duplicates = document["search"], document["duplicates"]
    recall = _NONE if search["recall"] is None else f"{search['recall']:.4g}"
    copies = counted(duplicates["exact_duplicates"], "exact duplicate")
    return (
        f"{counted(document['n'], 'sample')} x {counted(document['d'], 'dimension')}; "
        f"{search['kind']} search, k={search['k']}, recall {recall}; {copies}, "
        f"{duplicates['near_duplicates']:,} with a near one; log density at t={document['t_chosen']:g}"
    )


def _search_line(search: dict[str, Any]) -> str:
    """What an estimate is worth, where the pass was not exact."""
    worst = max(error for row in search["rms_relative_error"] for error in row)
    ranks = min(search["spearman"][0])  # of natural sampling: an equilibrium's potentials are all equal
    return (
        f"estimated: {search['probes']} of {search['cells']:,} cells a sample and {search['landmarks']:,} "
        f"landmarks; against {search['queries']} samples computed exactly, potentials are off by {worst:.2g} "
        f"(root mean square, worst scheme and bandwidth), the rank correlation of natural sampling's is at "
        f"least {ranks:.4f}"
    )


def _bandwidth_row(scheme: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    uniformity = _number(entry["uniformity"], 4)
    if entry["standard_error"] is not None:
        uniformity += f" +- {entry['standard_error']:.2g}"
    return [
        scheme["name"],
        f"{entry['t']:g}",
        uniformity,
        _number(entry["null"], 4),
        _number(entry["excess"], 4),
        _large(entry["effective_distinct"]),
        _large(entry["distinct_ceiling"]),
        rectified(entry["rectification"]),
        _percent(scheme["ess_share"]),
    ]


def _scheme_row(scheme: dict[str, Any]) -> list[str]:
    hardness = scheme["hardness"] or {"easy": None, "hard": None}
    return [
        scheme["name"],
        _large(scheme["ess"]),
        _percent(scheme["ess_share"]),
        _large(scheme["effective_identities"]),
        _percent(hardness["easy"]),
        _percent(hardness["hard"]),
        _percent(scheme["top_mass"]),
        _number(scheme["max_weight"], 2),
        _number(scheme["vendi_score"], 1),
        _number(scheme["koleo_entropy"], 3),
    ]


def _group_table(schemes: Sequence[dict[str, Any]], name: str) -> str:
    """A row a value: its share of the samples, then each scheme's share of the draws and mean log density."""
    columns = [name, "samples", "share"]
    for scheme in schemes:
        columns += [f"{scheme['name']} mass", "log density"]
    cells = [{row["value"]: row for row in scheme["groups"][name]} for scheme in schemes]
    rows = []
    for first in schemes[0]["groups"][name]:
        row = [first["value"] or "(none)", f"{first['count']:,}", _percent(first["share"])]
        for cell in cells:
            row += [_percent(cell[first["value"]]["mass"]), _number(cell[first["value"]]["log_density"], 3)]
        rows.append(row)
    return first_few(columns, rows, "uniformity.json has them all")


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _large(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.1f}" if value < 1e6 else f"{value:.1e}"
