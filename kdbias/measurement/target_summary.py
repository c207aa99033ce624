"""What a measurement against a target says to people."""

from collections.abc import Iterator
from typing import Any

from kdbias.display.quantities import write
from kdbias.display.table import FEW, Table
from kdbias.wording import counted

_SCHEME = "scheme discrepancy noise_ratio removed rectification p_value ess_share"
_COLUMN = "value share share_reference balance"


def target_summary(document: dict[str, Any]) -> list[str]:
    """Paragraphs: whether the data differ from the target, what each scheme removes, which groups are short.

    Args:
        document: the content of ``uniformity.json``; nothing is said without a target.
    """
    target = document["target"]
    if target is None:
        return []
    schemes = document["schemes"]
    return [
        "\n".join([verdict(target, schemes[0]["discrepancy"]), *_size(target)]),
        discrepancy_table(schemes).text(),
        *_columns(target["columns"]),
        "\n".join([*_blind(target), *(f"note: {note}" for note in target["notes"])]),
    ]


def verdict(target: dict[str, Any], natural: dict[str, Any]) -> str:
    """One line: do the data differ from the target, and by how much.

    Args:
        target: ``target`` of ``uniformity.json``.
        natural: ``discrepancy`` of natural sampling.
    """
    what, test = target["towards"], target["test"]
    if test is not None:
        p = write("p_value", test["p_value"])
        what = f"the reference {what} (p = {p}, {write('count', target['size'])} samples)"
    elif target["kind"] == "sphere":
        what = "the uniform sphere"
    if target["with"] is not None:
        what += f", {target['with']} compared together with the embedding"
    if not target["differs"]:
        how = "do not differ measurably from" if test else "do not differ from"
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


def discrepancy_table(schemes: list[dict[str, Any]]) -> Table:
    """A row a scheme: how far it is from the target, what it removes of natural sampling's discrepancy."""
    rows = []
    for scheme in schemes:
        found = scheme["discrepancy"]
        row = found | {
            "scheme": scheme["name"],
            "ess_share": scheme["ess_share"],
            "discrepancy": found["value"],
        }
        row["p_value_reason"] = row["removed_reason"] = found["reason"]
        if found["removed_interval"] is not None:
            low, high = (write("removed", end) for end in found["removed_interval"])
            row["removed"] = f"{write('removed', found['removed'])} ({low} to {high})"
        rows.append(row)
    title, caption = "Against the target", "How far each scheme is from what the student will be used on."
    return Table.of(rows, _SCHEME, title=title, caption=caption)


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


def _columns(columns: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """A table a column in which something is off, the furthest first."""
    even = [name for name, rows in columns.items() if not any(row["balance"] for row in rows)]
    for name, rows in columns.items():
        if name not in even:
            rows = sorted(rows, key=lambda row: -abs(row["share"] - row["share_reference"]))
            rows = [
                row | {"value": row["value"] or "(none)", "balance": row["balance"] or ""} for row in rows
            ]
            yield Table.of(rows, _COLUMN, headings={"value": name}).text(FEW, "uniformity.json has them all")
    if even:
        yield f"no share is off by more than sampling explains: {', '.join(even)}"


def _blind(target: dict[str, Any]) -> Iterator[str]:
    for name in target["blind"]:
        yield (
            f"blind spot: the shares of {name} differ, but the embedding hardly shows it, so that weights "
            f"towards the target leave it as it is; --with {name} compares it together with the embedding"
        )
