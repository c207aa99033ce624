"""kdbias compare"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, options
from kdbias.cli.options import given, settings_options
from kdbias.evaluation.settings import CompareSettings


class _TwoSided(StageCommand):
    """Takes all values that follow --to for it, so that a shell may expand `--to rectified-*`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named: list[str] = []
        after = False
        for argument in args:
            if argument.startswith("-"):
                after = argument == "--to" or argument.startswith("--to=")
            elif after and named[-1] != "--to":
                named.append("--to")
            named.append(argument)
        return super().parse_args(ctx, named)


@click.command("compare", cls=_TwoSided)
@options(
    click.argument("a", nargs=-1, required=True, metavar="A..."),
    click.option(
        "--to", "b", multiple=True, required=True, metavar="B...", help="What A is compared to, one or more."
    ),
    click.option("-o", "--output", metavar="FILE.json", help="Write the comparison there."),
    settings_options(CompareSettings),
)
def command(**parameters: Any) -> Any:
    """Say whether the difference B - A of evaluations is real, with 95 % intervals.

    A and B are folders that `kdbias evaluate` wrote by the same protocol on the same samples; several a side
    are runs with other training seeds.

    One run a side: the test units are resampled for both at once (by subject, where kdbias
    evaluate did so), which says whether these two models differ,
    not whether other seeds of their training would. Several runs a side: the variance between them is added
    (a t interval); three or more are wanted, as the interval of two is very wide.

    \b
    Examples:
      kdbias compare score_natural --to score_rectified
      kdbias compare natural-0 natural-1 --to rectified-0 rectified-1 -o difference.json
      kdbias compare runs/natural-*/score --to runs/rectified-*/score
    """
    from kdbias.evaluation import compare

    return compare(**given(parameters))
