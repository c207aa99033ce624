"""pilot(): small students under the candidate samplings, within a time: a study that writes its own file.

A timed unit decides how much there is of it: first how fast images are decoded (which samples take part),
then one student of a few steps (how many steps, seeds and samplings fit).
"""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from kdbias.advice.data import open_measured, remembered_aim
from kdbias.advice.settings import AdviseSettings
from kdbias.command_lines import option_words
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.progress import say
from kdbias.scratch import recorded
from kdbias.studies.arms import BASELINE
from kdbias.studies.draft import BATCH, Draft
from kdbias.studies.images import seconds_an_image
from kdbias.studies.pilot_findings import PilotResult, conclude_pilot
from kdbias.studies.pilot_settings import PilotSettings
from kdbias.studies.results import RESULTS, read_results
from kdbias.studies.settings import read_study
from kdbias.studies.stage import study
from kdbias.studies.statistics import FEW_SEEDS
from kdbias.tables.files import refuse_web, write_text
from kdbias.targets.settings import Aiming
from kdbias.wording import counted, visible

FILE, ROUND, TIMING = "study.toml", "pilot", "timing"
_TIMING_SEED = 1_000_000  # of no student that counts
_TIMED = 40  # steps of the student that is timed
_FEWEST, _EPOCHS = 50, 20  # steps below which a student has learnt nothing; epochs after which it has
_LEAST, _MOST = 400, 10_000  # samples that take part
_DECODING = 0.15  # share of the time
_PLANNED, _ADDED = 0.5, 0.8  # shares of what is left: for the first seeds, in case all gets slower; for more
_START, _END = 10.0, 8.0  # seconds until processes work; for tables and plots


@dataclass(frozen=True)
class Effort:
    """How much fits: which arms, how many steps and seeds."""

    arms: tuple[str, ...]
    steps: int
    seeds: int


@dataclass(frozen=True)
class Timed:
    """What one student takes: seconds beside its steps, and a step's; and how many run at a time."""

    fixed: float
    step: float
    workers: int

    def students(self, count: int, steps: int) -> float:
        """Seconds that so many of them take."""
        return math.ceil(count / self.workers) * (self.fixed + self.step * steps)


def effort(arms: Sequence[str], seconds: float, timed: Timed, enough: int, most_seeds: int) -> Effort:
    """How much fits into some seconds: three seeds first, then steps up to `enough`, then seeds.

    Where three seeds of all arms do not fit, the last arms are left out, natural and the first one apart;
    then there are fewer seeds, which are too few to tell.

    Raises:
        KdbiasError: not even one seed of two arms fits.
    """
    enough = max(enough, _FEWEST)
    wanted = min(FEW_SEEDS, most_seeds)
    plans = [(arms[:count], wanted) for count in range(len(arms), 1, -1)]
    plans += [(arms[:2], seeds) for seeds in range(wanted - 1, 0, -1)]
    for kept, seeds in plans:
        lines = math.ceil(len(kept) * seeds / timed.workers)
        steps = min(enough, int((seconds / lines - timed.fixed) / timed.step))
        if steps >= _FEWEST:
            while seeds < most_seeds and timed.students(len(kept) * (seeds + 1), steps) <= seconds:
                seeds += 1
            return Effort(tuple(kept), _rounded(steps), seeds)
    least = timed.students(2, _FEWEST)
    raise KdbiasError(
        f"pilot: two students of {_FEWEST} steps take about {least:,.0f} s here, and "
        f"{max(seconds, 0):,.0f} s are left of the time; give more"
    )


def _rounded(steps: int) -> int:
    """Steps with two digits that are not 0."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return steps // unit * unit


@takes_settings(PilotSettings)
def pilot(
    measured: str | os.PathLike[str], output: str | os.PathLike[str] = "pilot", *, settings: PilotSettings
) -> PilotResult:
    """Train small students under the candidate samplings on a part of the data, and compare them.

    Natural sampling, matched to the reference (or balanced) where a target is named, the equilibrium, and
    class-balanced where labels are classes. They are judged on images that none was trained on: the half of
    the reference that none was matched to, else a held-out part of the data. What runs is a study, whose file
    is left in the folder: edit it, and `kdbias study` goes on with it.

    Args:
        measured: an embedding table, or the folder that `uniformity` wrote of one.
        output: folder to write. The same call again goes on after an interruption.

    Raises:
        KdbiasError: the images are not where they were embedded from, the time is too short, or the folder
            holds another pilot.
    """
    began = time.monotonic()
    out, file = Path(output), Path(output) / FILE
    workers = settings.workers or _workers(settings.device)
    call: dict[str, Any] = {"device": settings.device, "workers": workers}
    until = began + settings.within - _END
    draft, command = drafted(measured, output, settings)
    if draft is not None:
        if settings.within <= _START + _END:
            raise KdbiasError(
                f"pilot: {settings.within:g} s are too few: until students train, and for the tables at the "
                f"end, some {_START + _END:.0f} s pass; give some minutes"
            )
        draft = replace(_sized(draft, settings.within), flip=settings.flip)
        timed = _time_one(draft, out, until - time.monotonic(), call)
        chosen = effort(
            tuple(draft.arms),
            _PLANNED * (until - time.monotonic()) - _START,
            timed,
            math.ceil(_EPOCHS * (draft.samples or draft.origin.data.n) / BATCH),
            settings.most_seeds,
        )
        draft = draft.without(*(arm for arm in draft.arms if arm not in chosen.arms))
        draft = replace(draft, steps=chosen.steps, rounds={ROUND: (tuple(range(chosen.seeds)), ())})
        say(
            f"pilot: {', '.join(chosen.arms)}; {counted(chosen.steps, 'step')}, "
            f"{counted(chosen.seeds, 'seed')}; a step takes {1000 * timed.step:,.0f} ms here, and a student "
            f"{timed.fixed:,.0f} s beside"
        )
        draft.write(file, command, _again(out))
    study(file, out, within=max(0.1, until - time.monotonic()), **call)
    while _add_seeds(file, out, _ADDED * (until - time.monotonic()), workers, settings.most_seeds):
        study(file, out, within=max(0.1, until - time.monotonic()), **call)
    return conclude_pilot(out, time.monotonic() - began, settings.within, _again(out))


def drafted(
    measured: str | os.PathLike[str], output: str | os.PathLike[str], settings: PilotSettings
) -> tuple[Draft | None, str]:
    """The study that a pilot is to be, of usual size, and the command that writes it, its target named.

    Returns:
        None in place of the study where its file is there already.

    Raises:
        KdbiasError: whatever is wrong with data, target, columns or the folder; nothing is written yet.
    """
    refuse_web(output)
    file = Path(output) / FILE
    data = open_measured(measured, AdviseSettings(embeddings=settings.embeddings, most=100))
    aim = remembered_aim(data, settings) or Aiming()
    how = {d.name: getattr(aim, d.name) for d in Aiming.declared()}
    command, known = _command(measured, output, replace(settings, **how))
    if not file.exists():
        return Draft.of(data.table.path, aim=aim, group_by=settings.group_by), command
    if known not in file.read_text(encoding="utf-8").partition("\n")[0]:
        raise KdbiasError(f"{file} is of another pilot, or yours; choose another folder with -o")
    return None, command


def _command(
    measured: str | os.PathLike[str], output: str | os.PathLike[str], settings: PilotSettings
) -> tuple[str, str]:
    """The call that writes a pilot's file, and what of it the pilot is known by: neither time nor machine."""
    about = ("embeddings", "towards", "with_column", "cluster_by", "group_by", "flip")
    given = {d.name: getattr(settings, d.name) for d in settings.declared() if d.name not in settings.left}
    how = {name: given.pop(name) for name in about if name in given}
    given.pop("within", None)
    words = ["kdbias", "advise", os.fspath(measured), *option_words(PilotSettings, how), "--pilot"]
    rest = [f"{settings.within:g}s", "-o", os.fspath(output), *option_words(PilotSettings, given)]
    return visible(shlex.join(recorded([*words, *rest]))), visible(shlex.join(recorded(words)))


def _again(out: Path) -> str:
    """The command that goes on with a pilot's study."""
    return shlex.join(["kdbias", "study", str(out / FILE), "-o", str(out)])


def _workers(device: str) -> int:
    """Students at a time: one a CPU, or one on a GPU."""
    from kdbias.device import resolve_device
    from kdbias.sphere.workers import available_threads

    return 1 if resolve_device(device) != "cpu" else available_threads()


def _sized(draft: Draft, seconds: float) -> Draft:
    """With as many samples as can be decoded, and measured, in a part of the time."""
    rate = seconds_an_image(draft.origin.data, draft.image_size)
    count = min(_DECODING * seconds / rate, 8000 * math.sqrt(seconds / 600), _MOST)
    count = max(_LEAST, int(count))
    judged = None
    if draft.deployment is not None:
        judged = max(_LEAST, count // 2)
        judged = judged if judged < draft.deployment.data.n else None
    return replace(draft, samples=count if count < draft.origin.data.n else None, judged=judged)


def _time_one(draft: Draft, out: Path, seconds: float, call: dict[str, Any]) -> Timed:
    """Prepare all, make the weights, train and judge a student on each worker; what one takes.

    Raises:
        KdbiasError: that alone takes longer than the seconds that are left.
    """
    seeds = tuple(range(_TIMING_SEED, _TIMING_SEED + call["workers"]))  # side by side, as they will be
    rounds: dict[str, Any] = {TIMING: (seeds, (BASELINE,)), ROUND: ((0,), ())}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "timing.toml"
        replace(draft, steps=_TIMED, rounds=rounds).write(file, "kdbias advise --pilot", "")
        study(file, out, rounds=(TIMING,), within=max(0.1, seconds), **call)
    rows = read_results(out)[1] if (out / RESULTS).exists() else []
    found = [row.facts for row in rows if row.seed in seeds]
    if len(found) < len(seeds):
        raise KdbiasError(
            f"pilot: the first {counted(len(seeds), 'student')} of {_TIMED} steps were not judged within the "
            f"{max(seconds, 0):,.0f} s that were left of the time; give more: what is prepared by now is kept"
        )
    step = max(facts["train_seconds"] / facts["steps"] for facts in found)
    fixed = max(facts["seconds"] - facts["train_seconds"] for facts in found)
    return Timed(max(fixed, 0.1), max(step, 1e-4), call["workers"])


def _add_seeds(file: Path, out: Path, seconds: float, workers: int, most: int) -> bool:
    """Give every sampling as many more seeds as fit into what is left; whether there are any."""
    description = read_study(file)
    seeds = description.rounds[ROUND].seeds
    rows = read_results(out)[1]
    if len(rows) < len(seeds) * len(description.arms):
        return False  # the time was over
    one = Timed(fmean(row.facts["seconds"] for row in rows), 0.0, workers)
    more = len(seeds)
    while (
        more < most and one.students(len(description.arms) * (more + 1 - len(seeds)), 0) + _START <= seconds
    ):
        more += 1
    if more == len(seeds):
        return False
    old, new = (json.dumps(list(each)) for each in (seeds, range(more)))
    text = file.read_text(encoding="utf-8").replace(f"seeds = {old}", f"seeds = {new}", 1)
    write_text(file, text)
    say(f"pilot: {counted(more - len(seeds), 'more seed')}, as there is time")
    return True
