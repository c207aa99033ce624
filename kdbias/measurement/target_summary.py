"""What a measurement against a target says to people."""

from collections.abc import Iterator
from typing import Any

from kdbias.display.quantities import write
from kdbias.display.table import Cell, Table
from kdbias.targets.columns import worth_told
from kdbias.wording import counted

_SCHEME = "scheme discrepancy noise_ratio removed of_the_best two_sample ess_share"
_COLUMN = "value share share_reference balance"


def target_summary(document: dict[str, Any]) -> list[str | Table]:
    """Paragraphs: whether the data differ from the target, what each scheme removes, which groups are short.

    Args:
        document: the content of ``uniformity.json``; nothing is said without a target.
    """
    target = document["target"]
    if target is None:
        return []
    head = "\n".join([verdict(target, document["schemes"][0]["discrepancy"]), *_size(target)])
    tables = [table.cut("uniformity.json has them all") for table in target_tables(document)]
    return [head, *tables, "\n".join([*_remarks(target), *(f"note: {note}" for note in target["notes"])])]


def target_tables(document: dict[str, Any]) -> list[Table]:
    """A row a scheme, then for each column in which something is off a row a value, the furthest first.

    Args:
        document: the content of ``uniformity.json``; there is no table without a target.
    """
    target = document["target"]
    if target is None:
        return []
    natural = document["schemes"][0]["discrepancy"]
    said = [verdict(target, natural), *_size(target), *_remarks(target), *target["notes"]]
    rows = [_scheme_row(scheme) for scheme in document["schemes"]]
    title, caption = (
        f"Against {target['towards']}",
        ". ".join(f"{line[0].upper()}{line[1:]}" for line in said),
    )
    tables = [Table.of(rows, _SCHEME, title=title, caption=f"{caption}.", explain=True)]
    for name, values in target["columns"].items():
        if any(row["balance"] for row in values):
            order = sorted(values, key=lambda row: -abs(row["share"] - row["share_reference"]))
            shown = [
                {**row, "value": Cell(row["value"] or "(none)"), "balance": Cell(row["balance"] or "")}
                for row in order
            ]
            title = f"{name}, against {target['towards']}"
            tables.append(Table.of(shown, _COLUMN, title=title, headings={"value": name}))
    return tables


def verdict(target: dict[str, Any], natural: dict[str, Any]) -> str:
    """One line: do the data differ from the target, and by how much.

    Args:
        target: ``target`` of ``uniformity.json``.
        natural: ``discrepancy`` of natural sampling.
    """
    what, test = target["towards"], target["test"]
    if test is not None:
        p = write("p_value", test["p_value"])
        by = target.get("cluster_by")
        groups = f" of {write('count', test['clusters'])} {by}s" if by and test.get("clusters") else ""
        size = f"{counted(target['size'], 'sample')}{groups}"
        size += worth_told(target["size"], target["effective_size"])
        what = f"the reference {what} (p = {p}, {size})"
    elif target["kind"] == "sphere":
        what = "the uniform sphere"
    if target["with"] is not None:
        what += f", {target['with']} compared together with the embedding"
    if not target["differs"]:
        how = "do not differ measurably from" if target["size"] else "do not differ from"
        return f"your data {how} {what}: natural sampling is the answer"
    by = f"squared discrepancy {write('discrepancy', natural['value'])}"
    ratio = natural["noise_ratio"]
    if ratio is not None:
        worth = f"the {write('count', target['effective_size'])} samples that such shares are worth"
        noise = f"the noise of {'such a reference' if test else worth}"
        by += f", {write('noise_ratio', ratio)} x {noise}"
        if ratio <= 1:
            by += ": matching stops before it begins"
    return f"your data differ from {what}: {by}"


def _scheme_row(scheme: dict[str, Any]) -> dict[str, Any]:
    """How far a scheme is from the target, and what it removes of natural sampling's discrepancy."""
    found, about = scheme["discrepancy"], {"scheme": scheme["name"], "ess_share": scheme["ess_share"]}
    row = found | about | {"discrepancy": found["value"], "of_the_best": found["rectification"]}
    row["of_the_best_reason"] = found["rectification_reason"]
    row |= {"two_sample": found["p_value"], "two_sample_reason": found["reason"]}
    row["removed_reason"] = found["reason"]
    if found["removed_interval"] is not None:
        low, high = (write("removed", end) for end in found["removed_interval"])
        row["removed"] = f"{write('removed', found['removed'])} ({low} to {high})"
    return row


def _size(target: dict[str, Any]) -> Iterator[str]:
    """How large a reference should be."""
    size, needed, test = target["size"], target["needed"], target["test"]
    if test is None or size is None:
        return
    if needed is None:
        least = write("discrepancy", max(test["null_95"], 0.0))
        yield f"{counted(size, 'sample')} would show a squared discrepancy of {least} beyond their noise"
    elif needed > size:
        yield (
            f"this reference has {counted(size, 'sample')}; one of about {needed:,} would bring its noise "
            "below a tenth of the difference"
        )
    else:
        yield f"the reference is large enough: from {needed:,} on its noise is a tenth of the difference"


def _remarks(target: dict[str, Any]) -> Iterator[str]:
    """Columns in which nothing is off, and those that the embedding does not show."""
    even = [name for name, rows in target["columns"].items() if not any(row["balance"] for row in rows)]
    if even:
        yield f"no share is off by more than sampling explains: {', '.join(even)}"
    for name in target["blind"]:
        yield (
            f"blind spot: the shares of {name} differ, but the embedding hardly shows it, so that weights "
            f"towards the target leave it as it is; --with {name} compares it together with the embedding"
        )
