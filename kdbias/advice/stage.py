"""advise(): should these data be rectified, towards what, how far, at what cost."""

from __future__ import annotations

import os

from kdbias.advice import words
from kdbias.advice.advice import Advice, Fact
from kdbias.advice.commands import Places, commands
from kdbias.advice.costs import costs
from kdbias.advice.data import open_measured, remembered_aim
from kdbias.advice.finding import Finding
from kdbias.advice.groups import columns_of, shifts
from kdbias.advice.matching import Comparison
from kdbias.advice.settings import AdviseSettings
from kdbias.advice.written import measured_manifests, written
from kdbias.functions import takes_settings


@takes_settings(AdviseSettings)
def advise(measured: str | os.PathLike[str], *, settings: AdviseSettings) -> Advice:
    """Say in ten lines whether to rectify, towards what, how far, what it costs, and what to type.

    It rests on a two-sample test against the target, on what weights could remove of the difference, and on
    the gains of comparable cases in the study that comes with kdbias. Writes nothing.

    Args:
        measured: the folder that ``uniformity`` wrote, whose target is taken where none is named, or an
            embedding table.

    Returns:
        The advice; without a target it says what is assumed, and what a reference would tell.

    Raises:
        KdbiasError: nothing measured there, a target that does not fit, or an unknown column.
    """
    return advice_on(measured, settings, Places())


def advice_on(measured: str | os.PathLike[str], settings: AdviseSettings, places: Places) -> Advice:
    """As `advise`, with what lies where already."""
    data = open_measured(measured, settings)
    columns, left_out = columns_of(data, settings.group_by)
    aim = remembered_aim(data, settings)
    against = None if aim is None else Comparison(data, aim, settings)
    weights = written((*places.weights, *measured_manifests(data)), data, against)
    found = Finding(data, data.counts(settings.threads), against, weights)
    cited, expectation = words.expected(found)
    return Advice(
        choice=found.choice,
        verdict=words.verdict(found),
        samples=data.n,
        dimensions=data.table.d,
        counts=found.counts,
        target=found.difference,
        offers=found.offers,
        advised=found.advised,
        facts=(*words.facts(found, places.assumed), *([Fact("groups", left_out)] if left_out else [])),
        groups=tuple(shifts(found, columns)),
        expected=tuple(cited),
        expectation=expectation,
        costs=tuple(costs(data, settings.threads, weights=found.masses is not None and weights is None)),
        commands=tuple(commands(found, aim, places)),
    )
