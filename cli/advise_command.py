"""kdbias advise"""

from dataclasses import dataclass
from typing import Any

import click

import kdbias
from kdbias.advice.settings import AdviseSettings
from kdbias.cli.common import AS_JSON
from kdbias.cli.options import stage_command
from kdbias.studies.pilot_settings import PilotOptions, PilotSettings
from kdbias.wording import visible_lines


@dataclass(frozen=True)
class _Piloted:
    """An advice, which was printed before the pilot began, and what that found."""

    advice: Any
    pilot: Any

    @property
    def document(self) -> dict[str, Any]:
        """The advice's, with the pilot's in it."""
        return self.advice.document | {"pilot": self.pilot.document}

    def summary(self) -> str:
        """What the pilot found."""
        return "\n" + self.pilot.summary()


@stage_command(
    "advise",
    click.argument("measured", metavar="EMB|DENSITY"),
    AdviseSettings,
    PilotOptions,
    click.option("-o", "--output", metavar="OUT", help="Folder of the pilot [pilot]."),
)
@click.pass_context
def command(ctx: click.Context, measured: str, output: str | None = None, **given: Any) -> Any:
    """Say what to do with your data, in ten lines: rectify or not, towards what, at what cost; what to type.

    EMB is an embedding table, DENSITY the folder that `kdbias uniformity` wrote, whose target counts where
    none is named. The verdict rests on a two-sample test against the target and on the gains of comparable
    cases in our own study (docs/results/README.md); nothing is written.

    With --pilot it goes on to measure that on your own data: a small study, written to OUT, which ends in
    time. The same command again goes on with it.

    \b
    Examples:
      kdbias advise density
      kdbias advise emb --towards deployed --group-by race
      kdbias advise density --pilot 10m -o pilot
    """
    trial = {d.name: given.pop(d.name) for d in PilotOptions.declared() if d.name in given}
    if "within" not in trial:
        if trial or output is not None:
            flag = "--" + ("output" if output is not None else next(iter(trial))).replace("_", "-")
            raise click.UsageError(f"{flag} is of a pilot: add --pilot 10m, or leave it out")
        return kdbias.advise(measured, **given)
    from kdbias.studies.pilot import drafted

    asked = {d.name: given[d.name] for d in PilotSettings.declared() if d.name in given} | trial
    place = output or "pilot"
    drafted(measured, place, PilotSettings.of(asked))  # refused before the advice takes its time
    advice = kdbias.advise(measured, **given)
    if not ctx.meta[AS_JSON]:
        click.echo(visible_lines(advice.summary()))
    return _Piloted(advice, kdbias.pilot(measured, place, **asked))
