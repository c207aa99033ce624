"""run(): from images to an advice, each stage by its public function where its own command would put it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.advice.advice import Advice
from kdbias.advice.commands import Places
from kdbias.advice.settings import AdviseSettings
from kdbias.advice.stage import advice_on
from kdbias.command_lines import Step
from kdbias.device import rank_and_world
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.functions import takes_settings
from kdbias.measurement.files import UNIFORMITY, read_uniformity
from kdbias.pipeline.planned import plan_run
from kdbias.pipeline.refusals import refuse_targets
from kdbias.pipeline.settings import RunSettings
from kdbias.pipeline.steps import Steps
from kdbias.planning import Planned
from kdbias.progress import say
from kdbias.scratch import recorded
from kdbias.tables import fingerprints
from kdbias.tables.density_table import DENSITY
from kdbias.tables.listing import head_of, located
from kdbias.tables.run_record import RECORD, Run, Stage
from kdbias.tables.weight_manifest import WeightManifest, read_manifest
from kdbias.targets.settings import Named
from kdbias.weighting.settings import WeightsSettings
from kdbias.weighting.stage import refuse_another
from kdbias.wording import duration, visible, visible_lines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STAGE = Stage("run", files=("embeddings", "reference", "density", "weights.parquet", "report.html"))
_EXAMPLE = "DEPLOYED/"


@dataclass(frozen=True, repr=False)
class RunResult(Result):
    """What a run left.

    Attributes:
        path: the folder.
        embeddings, density, weights, page: what lies in it; reference: the embeddings of the target's images,
            None where there were none to embed.
        advice: what to do with the data; None where it was only planned.
        plans: of the stages, where only that was asked.
    """

    path: Path
    embeddings: Path
    reference: Path | None
    density: Path
    weights: Path
    page: Path
    advice: Advice | None
    plans: tuple[Planned, ...] = ()

    def blocks(self) -> list[str | Table]:
        """The advice, and where the page lies; of a plan, the plans."""
        if self.advice is None:
            total = duration(sum(plan.seconds or 0.0 for plan in self.plans))
            lines = [line for plan in self.plans for line in plan.lines()]
            return [visible_lines("\n".join([*lines, f"all of it about {total}; nothing was done"]))]
        return [self.advice.summary(), f"{'page':11}{visible(str(self.page))} opens in any browser"]

    def to_pandas(self) -> pd.DataFrame:
        """The manifest, a row a sample."""
        return self._manifest.to_pandas()

    def plot(self) -> Figure:
        """How the manifest's weights are spread, and who is drawn."""
        return self._manifest.plot()

    @property
    def _manifest(self) -> WeightManifest:
        if self.advice is None:
            raise KdbiasError("this was only planned; without plan=True there are rows and a figure")
        return read_manifest(self.weights)


@takes_settings(RunSettings)
def run(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    settings: RunSettings,
) -> RunResult:
    """Embed, measure, weigh, measure what the weights make of it, report, and say what to do with the data.

    Each stage is the public function of its name and leaves in ``output`` what its own command would:
    ``embeddings``, ``density``, ``weights.parquet`` and ``report.html``, and ``reference`` where the target
    is given as images. Its command is told before it runs. The same call again goes on where it was
    interrupted, and passes over what is finished.

    Args:
        data: what `kdbias.open_data` reads.
        output: folder to write.
        overwrite: make again the stages that were made with other options or inputs, and those behind them;
            all others are kept.

    Raises:
        KdbiasError: as the stages; a stage that was made differently (the keys that differ are named).
    """
    if rank_and_world()[1] > 1:
        raise KdbiasError(
            "kdbias run is one process; embed with torchrun first (kdbias embed DATA -o OUT/embeddings); "
            "kdbias run with the same options goes on from there"
        )
    steps = Steps(os.fspath(data), os.fspath(output), settings)
    refuse_targets(steps)
    if settings.plan:
        return _result(steps, None, tuple(plan_run(steps)))
    started = time.monotonic()
    with Run.open(output, STAGE, {}, {}, mends=True) as record:
        stages = list(steps.all())
        count = len(stages) + 1
        for number, step in enumerate(stages, 1):
            _announce(f"[{number}/{count}] {step.title}", step.command)
            _told(_one(step, overwrite, stages[number:]), step.stage)
        _announce(f"[{count}/{count}] write the page", steps.report_command)
        made_from = _report(steps, record)
        advice = _advise(steps, settings)
        counts = {"samples": advice.samples}
        record.finish(counts, time.monotonic() - started, page=made_from)
    return _result(steps, advice)


def _announce(title: str, command: str) -> None:
    say(title)
    say(f"  $ {command}")


def _told(result: Any, stage: str) -> None:
    """The result of a stage in its first line, and what it warns of; one that did nothing has said so."""
    first, *others = result.summary().split("\n")
    if result.state != ("already finished" if stage == "embed" else "finished"):
        say(first)
    for line in others:
        if line.lstrip().startswith("warning:"):
            say(line)


def _one(step: Step, overwrite: bool, later: Sequence[Step]) -> Any:
    """Run a stage; made again where it was made differently and that was asked for."""
    try:
        _refuse_another_target(step)
        if not overwrite and step.stage == "uniformity" and (Path(step.output) / DENSITY).exists():
            for weighing in later:  # a measurement adds a target to what is there: not if these do not follow
                if weighing.stage == "weights" and Path(weighing.output).exists():
                    refuse_another(step.output, weighing.output, WeightsSettings.of(weighing.options))
        return step.run()
    except ConfigChangedError as error:
        if not overwrite:
            raise ConfigChangedError(
                f"{error}; kdbias run --overwrite makes again only the stages that differ"
            ) from None
    say(f"{step.output} was made differently: made again")
    return step.run(overwrite=True)


def _refuse_another_target(step: Step) -> None:
    """A measurement keeps its target where none is named now: the advice would be on that one."""
    out, aimed = (
        Path(step.output),
        {"towards", "weights"} & set(step.options),
    )  # weights are added to what is there
    if step.stage != "uniformity" or aimed or not (out / UNIFORMITY).exists():
        return
    target = read_uniformity(out)["target"]
    if target is not None:
        raise ConfigChangedError(
            f"{out} was measured against {target['towards']}, and no target is named now; name it by "
            "--towards, or choose another output"
        )


def _report(steps: Steps, record: Run) -> dict[str, Any]:
    """Write the page, where it is not of these very files; returns what it is made from."""
    import kdbias

    tables = map(head_of, (located(Path(steps.density) / DENSITY), Path(steps.weights)))
    inputs = [Path(steps.density) / RECORD, *tables]
    made_from = {"files": [fingerprints.of_file(file) for file in inputs], "options": recorded(steps.report)}
    if record.record.get("page") == made_from and Path(steps.page).exists():
        say(f"{steps.page} is finished already; nothing to do")
    else:
        kdbias.report([steps.density, steps.weights], steps.page, **steps.report)
    return made_from


def _advise(steps: Steps, settings: RunSettings) -> Advice:
    """What to do, with the manifest that is there."""
    say("what to do")
    own = AdviseSettings(
        towards=steps.towards,
        with_column=settings.with_column,
        cluster_by=settings.cluster_by,
        group_by=settings.group_by,
        threads=settings.threads,
    )
    again = None if settings.towards else steps.again("deployed" if settings.precomputed else _EXAMPLE)
    return advice_on(steps.density, own, Places([Path(steps.weights)], again))


def _result(steps: Steps, advice: Advice | None, plans: tuple[Planned, ...] = ()) -> RunResult:
    reference = None if steps.images_of_target is None else Named.of(str(steps.towards)).what
    return RunResult(
        path=Path(steps.out),
        embeddings=Path(steps.embeddings),
        reference=None if reference is None else Path(reference),
        density=Path(steps.density),
        weights=Path(steps.weights),
        page=Path(steps.page),
        advice=advice,
        plans=plans,
    )
