"""A finding in plain words; each term is explained where it is first used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kdbias.advice import evidence
from kdbias.advice.advice import Expected, Fact
from kdbias.advice.data import near
from kdbias.advice.finding import Finding
from kdbias.advice.groups import columns_of
from kdbias.advice.matching import Difference, Offer, reference_noise
from kdbias.display.quantities import percent, write
from kdbias.measurement.suspects import suspect_lines
from kdbias.tables.columns import IMAGE
from kdbias.targets.columns import worth_told
from kdbias.targets.settings import SPHERE
from kdbias.wording import counted

REFERENCE = 300
"""Images of the deployment that an advice asks for."""
_ALIKE = 0.01  # ESS/n within which two offers are one
_BEYOND = 0.1  # share of a reference's images past 99 % of the data's, of which chance explains 1 %
_FEW = 100  # images of which the last percent tells nothing


def verdict(found: Finding) -> str:
    """One line."""
    target, offer = found.difference, found.advised
    if target is None:
        return (
            "no target, no verdict: leave the data as they come until you have named what the student will "
            "be used on"
        )
    if target.kind == SPHERE:
        return "no verdict: an even sphere is an assumption, not a deployment; name a sample of that"
    what = _named(target)
    if not target.differs:
        return f"stay natural: your data do not differ measurably from {what}"
    if offer is None:
        if found.choice == "copies":
            return f"draw copies as one sample: without them your data do not differ measurably from {what}"
        return f"stay natural: what your data differ by from {what} is within the noise of such a target"
    does = (
        f"weights towards it take away {write('removed', offer.removed)} of that and keep an effective "
        f"sample size of {write('ess_share', offer.ess_share)}"
    )
    if found.choice == "matched":
        return f"rectify: your data differ from {what}; {does}"
    return f"compare before you rectify: your data differ from {what}; {does}, but {_doubt(found)}"


def _doubt(found: Finding) -> str:
    """Why the study does not say that weights would help."""
    signs = [case.gains[found.tried].sign for case in found.cases]
    if found.counts.blind:
        return f"{_untold(found)}, so what it calls alike may not be"
    if not signs:
        return "no case of our study is like yours"
    made = "harmed in a case" if -1 in signs else "made no sure difference in those"
    return f"such weights {made} of our study like yours"


def _untold(found: Finding) -> str:
    """That labels and teacher have little to do with each other."""
    return (
        f"the teacher does not tell your labels apart ({found.counts.misfit:,} of {found.counts.judged:,} "
        "samples are nearer to another label's centroid)"
    )


def facts(found: Finding, weights: Path | None = None) -> Iterator[Fact]:
    """Lines about the data, the target and the weights, which may lie somewhere already."""
    yield Fact("data", _counted(found))
    data = found.data
    if data.density is not None and data.suspects is not None:
        lines = suspect_lines(data.measured or {}, near(data.density.path.parent))
        yield Fact("suspects", "; ".join(lines).removeprefix("suspects: "))
    if found.difference is None:
        yield from _asked(found)
    else:
        yield from _target(found.difference, found.data.drawn)
        yield from _beyond(found)
    if found.counts.blind and found.choice in ("natural", "copies"):
        yield Fact("note", f"{_untold(found)}, so a difference in them would not show")
    yield from _offered(found)
    if found.choice == "unknown" and weights is not None:
        yield Fact("weights", f"{near(weights)} evens out under that assumption: good for a comparison alone")


def _counted(found: Finding) -> str:
    counts, data = found.counts, found.data
    labels = counted(counts.labels, "label") if counts.labels else "no labels"
    copies = f"{counted(counts.copies, 'exact copy')}" if counts.copies else "no exact copies"
    of = "" if counts.samples == data.n else f" (among {counts.samples:,} that were drawn)"
    lost = ""
    if counts.unreadable:
        where = near(data.table.path / "failures.parquet")
        lost = f" ({counted(counts.unreadable, 'image')} could not be read: {where})"
    far = f", {counts.isolated:,} far from all others" if data.suspects is None else ""
    return (
        f"{counted(data.n, 'sample')}{lost}, {labels}; {copies}, {counts.near:,} with a near duplicate "
        f"(cosine >= 0.999){far}{of}"
    )


def _asked(found: Finding) -> Iterator[Fact]:
    """Without a target: what is assumed, and what one would tell."""
    yield Fact(
        "target",
        "none named; weights without one assume that the student will meet every region of the teacher's "
        "space alike",
    )
    differing = sorted((c for c in found.cases if c.differs), key=lambda case: case.discrepancy)
    ends = " to ".join(f"{case.discrepancy:.1g} ({case.what})" for case in (differing[0], differing[-1]))
    groups, least = columns_of(found.data, ())[0], reference_noise(found.data, REFERENCE)
    even = f"; or --towards balanced:{groups[0]}, if all its values count alike there" if groups else ""
    yield Fact(
        "to ask",
        f"{REFERENCE} unlabelled images of its use would tell whether the data differ from it, from a "
        f"squared discrepancy (MMD², 0 = drawn alike) of about {least:.1g} on; in our study it was "
        f"{ends}{even}",
    )


def _target(target: Difference, drawn: str) -> Iterator[Fact]:
    """How far the data are from it, and what is odd about it."""
    by = f"squared discrepancy (MMD², 0 = drawn alike) {write('discrepancy', target.discrepancy)}"
    if target.noise_ratio is not None:
        own, has = "a reference of this size", "has by itself"
        if not target.size:
            own, has = "such shares", "have by themselves"
        own += f" (its samples of one {target.clustered} counted together)" if target.clustered else ""
        by += f", {write('noise_ratio', target.noise_ratio)} times the noise that {own} {has}"
    if target.p_value is not None:
        by += f"; two-sample test p = {write('p_value', target.p_value)}"
    if target.effect is not None:
        by += f", effect {max(target.effect, 0.0):.2g} (1 = nothing in common)"
    yield Fact("target", f"{target.towards}: {by}{drawn}")
    for note in target.notes:
        yield Fact("note", note)
    for name in target.blind:
        yield Fact(
            "note", f"shares of {name} differ, but the teacher hardly shows it: --with {name} counts it"
        )


def _beyond(found: Finding) -> Iterator[Fact]:
    """Images of the reference that are darker, brighter, flatter or starker than nearly all of the data's."""
    reference = None if found.against is None else found.against.opened.table
    ours = found.data.table.image_facts()
    theirs = None if reference is None else reference.image_facts()
    if ours is None or theirs is None or len(ours) < _FEW:
        return
    for name, less, more in (("brightness", "darker", "brighter"), ("contrast", "flatter", "starker")):
        place = IMAGE.index(f"image_{name}")
        low, high = np.nanquantile(ours[:, place], [0.01, 0.99])
        for word, outside in ((less, theirs[:, place] < low), (more, theirs[:, place] > high)):
            if outside.mean() > _BEYOND:
                yield Fact(
                    "note",
                    f"{percent(float(outside.mean()))} of its images are {word} than 99 % of the data's: "
                    "weights choose among your images and make none like these (augmentation may)",
                )


def _offered(found: Finding) -> Iterator[Fact]:
    """What weights do, a line an offer; some that come to about the same are one."""
    kept: list[Offer] = []
    for offer in sorted(found.offers, key=lambda offer: offer is not found.advised):
        if all(abs(offer.ess_share - other.ess_share) >= _ALIKE for other in kept):
            kept.append(offer)
    if kept:
        yield Fact(
            "weights",
            "scheme matched (kdbias weights --towards), by effective sample size (ESS: how many samples "
            f"carry the draws){found.data.drawn}:",
        )
    for offer in sorted(kept, key=lambda offer: -offer.ess_share):
        at, removed = write("ess_share", offer.ess_share), write("removed", offer.removed)
        text = f"at ESS {at} it removes {removed} of the difference"
        if offer.bound == "noise":
            text += ", no more than the noise of the target lets be known"
        if offer is found.advised:
            whose = "the default" if found.written is None else near(found.written.path)
            text += f"; that is {whose}"
            if found.never:
                text += f", by which {found.never:,} of {counted(found.drawn_from, 'sample')} are never drawn"
        yield Fact("weights", text)


def expected(found: Finding) -> tuple[list[Expected], str]:
    """The cases that speak, and what they say in words."""
    file, tried = evidence.file(), found.tried
    if found.choice in ("natural", "copies"):
        alike = "; ".join(case.what for case in evidence.cases() if not case.differs)
        return (
            [],
            f"nothing to gain by weights; as where the data of our study did not differ ({alike})",
        )
    cited = [_cited(case, tried, file) for case in found.cases]
    if found.choice == "unknown":
        return cited, (
            f"evening out without a target removed {_ends(found.cases, tried)} of natural sampling's error "
            f"in our study ({file}): which of them yours is, only a target tells"
        )
    if not found.cases:
        return (
            [],
            f"no case of our study is like yours ({_unlike(found)}): only a trial on your own data tells",
        )
    return cited, f"{_spoken(found.cases, tried)} (small students, 95 % intervals: {file})"


def _spoken(cases: Sequence[evidence.Case], tried: str) -> str:
    """What cases like these came to: the nearest, the least of the others, and the worst unlike them.

    Args:
        cases: by likeness, at least one.
    """
    how = "matched to 300 images" if tried == evidence.MATCHED else "balanced by label"
    first, *others = cases
    text = (
        f"in our study, {how}: by its numbers most like yours, {_told(first, tried)} of natural sampling's "
        "error removed"
    )
    least = min(others, key=lambda case: case.gains[tried].value, default=None)
    if least is not None:
        text += f"; of the {len(cases)} like yours least for {_told(least, tried)}"
    unlike = [case for case in evidence.cases() if tried in case.gains and case not in cases]
    harmed = next((case for case in unlike if case.differs and case.gains[tried].sign < 0), None)
    return text if harmed is None else f"{text}; of those unlike yours it harmed {_told(harmed, tried)}"


def _unlike(found: Finding) -> str:
    """Why no case may be cited."""
    if found.counts.blind:
        return "in all of them the teacher tells the labels apart"
    if found.faint:
        return "in all of them the difference stands out from the noise of the reference"
    if found.tried == evidence.WITH:
        return "none that differed was matched with a column"
    if found.difference is not None and found.difference.clustered:
        return "in none that differed did samples of the target count together"
    return "none has such a difference, of which weights remove as much, and as many near duplicates"


def _told(case: evidence.Case, tried: str) -> str:
    return f"{case.what}: {case.gains[tried].text}"


def _ends(cases: list[evidence.Case], tried: str) -> str:
    """From the worst to the best gain, with what they were."""
    order = sorted(cases, key=lambda case: case.gains[tried].value)
    ends = (order[0], order[-1])
    return " to ".join(f"{100 * case.gains[tried].value:+.1f} % ({case.what})" for case in ends)


def _named(target: Difference) -> str:
    """The target, with the test that was made against it."""
    if target.p_value is None or target.size is None:
        return target.towards
    of = "" if target.of is None else f"of {near(target.of)}, "
    size = f"{counted(target.size, 'sample')}{worth_told(target.size, target.effective_size)}"
    return f"{target.towards} ({of}p = {write('p_value', target.p_value)}, {size})"


def _cited(case: evidence.Case, tried: str, file: str) -> Expected:
    gain = case.gains[tried]
    return Expected(case.name, case.what, tried, gain.value, gain.low, gain.high, gain.seeds, file)
