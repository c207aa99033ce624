"""What a measurement says to people: tables, and a line about each word where it is first used."""

from collections.abc import Iterable, Sequence
from typing import Any

from kdbias.display.quantities import NONE, QUANTITIES, write
from kdbias.display.result import text_of
from kdbias.display.table import Table
from kdbias.measurement.suspects import suspect_lines
from kdbias.measurement.target_summary import target_summary
from kdbias.tables.telling import left_out, no_groups
from kdbias.wording import counted

_BANDWIDTH = "scheme t uniformity null excess effective_distinct distinct_ceiling rectification ess_share"
_SCHEME = "scheme ess ess_share effective_identities easy hard top_mass max_weight vendi_score koleo_entropy"
_EXPLAINED = ("t", "uniformity", "excess", "effective_distinct", "rectification", "ess_share")
_OF_TARGET = ("discrepancy", "noise_ratio", "removed", "two_sample")


def summary_table(document: dict[str, Any], verbose: bool = False) -> str:
    """`summary_blocks` as text."""
    return text_of(summary_blocks(document, verbose), "\n\n")


def summary_blocks(document: dict[str, Any], verbose: bool = False) -> list[str | Table]:
    """The numbers of a measurement: a row for each scheme at the chosen bandwidth, one a scheme, then groups.

    Args:
        document: the content of ``uniformity.json``.
        verbose: a row for each bandwidth, and the table of schemes for natural sampling alone, too.
    """
    schemes, chosen = document["schemes"], document["t_chosen"]
    seen = [(s, b) for s in schemes for b in s["bandwidths"] if verbose or b["t"] == chosen]
    of_schemes = [s | (s["hardness"] or {}) | {"scheme": s["name"]} for s in schemes]
    parts: list[str | Table] = [
        _heading(document),
        *target_summary(document),
        *suspect_lines(document),
        _search_line(document["search"]),
        Table.of([_bandwidth_row(s, b) for s, b in seen], _BANDWIDTH),
        *_best_lines(document),
        *([Table.of(of_schemes, _SCHEME)] if verbose or len(schemes) > 1 else []),
        *_group_tables(schemes),
        *_unrectified(b for _, b in seen),
        _glossary(document),
        _bandwidths_line(len(schemes[0]["bandwidths"]) - 1, verbose),
    ]
    return [part for part in parts if part]


def _group_tables(schemes: Sequence[dict[str, Any]]) -> list[str | Table]:
    """A table for each column that tells groups apart, and a line about those that do not."""
    sizes = {name: [row["count"] for row in own] for name, own in schemes[0]["groups"].items()}
    reasons = {name: why for name, own in sizes.items() if (why := no_groups(own, sum(own)))}
    return [*(_group_table(schemes, name) for name in sizes if name not in reasons), left_out(reasons) or ""]


def _unrectified(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Why the rectified share is missing, a line a reason."""
    reasons = {b["rectification_reason"]: b["t"] for b in entries if b["rectification"] is None}
    return [f"rectified {NONE} (t={t:g}): {reason}" for reason, t in reasons.items() if reason]


def _glossary(document: dict[str, Any]) -> str:
    """What the headings mean, a line each."""
    terms = [*(_OF_TARGET if document["target"] else ()), *_EXPLAINED]
    return "\n".join(f"{QUANTITIES[key].heading}: {QUANTITIES[key].meaning}" for key in terms)


def _bandwidths_line(swept: int, verbose: bool) -> str:
    """Where the other bandwidths are; where they are shown, how to read them."""
    if verbose:
        return (
            "U leaves out pairs of a sample with itself, D and rectified count them: few samples drawn very "
            "often can be lower in U and yet worth less in D"
        )
    return f"{counted(swept, 'other bandwidth')} in uniformity.json, and here with --verbose" if swept else ""


def _heading(document: dict[str, Any]) -> str:
    """The lines above the tables: samples, search, duplicates and bandwidth."""
    search, duplicates = document["search"], document["duplicates"]
    recall = NONE if search["recall"] is None else f"{search['recall']:.4g}"
    copies = counted(duplicates["exact_duplicates"], "exact duplicate")
    return (
        f"{counted(document['n'], 'sample')} x {counted(document['d'], 'dimension')}; "
        f"{search['kind']} search, k={search['k']}, recall {recall}; {copies}, "
        f"{duplicates['near_duplicates']:,} with a near one; log density at t={document['t_chosen']:g}"
    )


def _best_lines(document: dict[str, Any]) -> list[str]:
    """What the best re-weighting reaches, where it was searched."""
    reached = [
        f"{write('effective_distinct', 1 / best['energy'])} of {document['n']:,} (t={write('t', best['t'])})"
        for best in document["best"]
        if best["energy"] is not None
    ]
    return [f"at best D = {', '.join(reached)}"] if reached else []


def _search_line(search: dict[str, Any]) -> str:
    """What an estimate is worth; empty where the pass was exact."""
    if "probes" not in search:
        return ""
    worst = max(error for row in search["rms_relative_error"] for error in row)
    ranks = min(search["spearman"][0])  # of natural sampling: an equilibrium's potentials are all equal
    return (
        f"estimated: {search['probes']:,} of {search['cells']:,} cells a sample; against "
        f"{counted(search['queries'], 'sample')} computed exactly, potentials are off by "
        f"{worst:.2g} (root mean square, worst scheme and bandwidth), the rank correlation of natural "
        f"sampling's is at least {ranks:.4f}"
    )


def _bandwidth_row(scheme: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """A scheme's row at one bandwidth, its uniformity with the standard error."""
    row = entry | {"scheme": scheme["name"], "ess_share": scheme["ess_share"]}
    if entry["standard_error"] is not None:
        row["uniformity"] = f"{write('uniformity', entry['uniformity'])} +- {entry['standard_error']:.2g}"
    return row


def _group_table(schemes: Sequence[dict[str, Any]], name: str) -> Table:
    """A row a value: its share of the samples, then each scheme's share of the draws and mean log density."""
    rows, keys, headings = schemes[0]["groups"][name], ["value", "count", "share"], {"value": name}
    seen = [] if schemes[0]["discrepancy"] is None else [("witness", "witness")]
    for scheme in schemes:
        cells = {row["value"]: row for row in scheme["groups"][name]}
        for key, heading in (("mass", f"{scheme['name']} mass"), ("log_density", "log density"), *seen):
            own = f"{scheme['name']} {key}"
            keys.append(own)
            headings[own] = heading
            rows = [row | {own: write(key, cells[row["value"]][key])} for row in rows]
    rows = [row | {"value": row["value"] or "(none)"} for row in rows]
    return Table.of(rows, keys, headings=headings).cut("uniformity.json has them all")
