"""``uniformity.json`` as aligned text for a terminal."""

from collections.abc import Sequence
from typing import Any

from kdbias.display.quantities import NONE, quantity, write
from kdbias.display.table import FEW, Table
from kdbias.wording import counted

_BANDWIDTH = "scheme t uniformity null excess effective_distinct distinct_ceiling rectification ess_share"
_SCHEME = "scheme ess ess_share effective_identities easy hard top_mass max_weight vendi_score koleo_entropy"


def summary_table(document: dict[str, Any]) -> str:
    """The numbers of a measurement: a row for each scheme and bandwidth, then one a scheme, then groups.

    Args:
        document: the content of ``uniformity.json``.
    """
    schemes = document["schemes"]
    rows = [_bandwidth_row(s, b) for s in schemes for b in s["bandwidths"]]
    of_schemes = [s | (s["hardness"] or {}) | {"scheme": s["name"]} for s in schemes]
    parts = [
        _heading(document),
        *([_search_line(document["search"])] if "probes" in document["search"] else []),
        Table.of(rows, _BANDWIDTH).text(),
        Table.of(of_schemes, _SCHEME).text(),
    ]
    parts += [_group_table(schemes, name) for name in schemes[0]["groups"]]
    reasons = {
        b["rectification_reason"]: b["t"]
        for s in schemes
        for b in s["bandwidths"]
        if b["rectification"] is None and b["rectification_reason"]
    }
    parts += [f"rectified {NONE} (t={t:g}): {reason}" for reason, t in reasons.items()]
    parts.append(
        "U: uniformity in nats, lower = more even; excess: above a uniform sphere; D: distinct samples that "
        "the draws are worth at this t\n"
        "U leaves out pairs of a sample with itself, D and rectified count them: few samples drawn very "
        "often can be lower in U and yet worth less in D"
    )
    return "\n\n".join(parts)


def _heading(document: dict[str, Any]) -> str:
    search, duplicates = document["search"], document["duplicates"]
    recall = NONE if search["recall"] is None else f"{search['recall']:.4g}"
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


def _bandwidth_row(scheme: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    row = entry | {"scheme": scheme["name"], "ess_share": scheme["ess_share"]}
    if entry["standard_error"] is not None:
        row["uniformity"] = f"{write('uniformity', entry['uniformity'])} +- {entry['standard_error']:.2g}"
    return row


def _group_table(schemes: Sequence[dict[str, Any]], name: str) -> str:
    """A row a value: its share of the samples, then each scheme's share of the draws and mean log density."""
    keys, headings = [name, "count", "share"], dict[str, str]()
    rows = [row | {name: row["value"] or "(none)"} for row in schemes[0]["groups"][name]]
    for scheme in schemes:
        cells = {row["value"]: row for row in scheme["groups"][name]}
        for key in ("mass", "log_density"):
            own = f"{scheme['name']} {key}"
            keys.append(own)
            headings[own] = own if key == "mass" else quantity(key).heading
            rows = [row | {own: write(key, cells[row["value"]][key])} for row in rows]
    return Table.of(rows, keys, headings=headings).text(FEW, "uniformity.json has them all")
