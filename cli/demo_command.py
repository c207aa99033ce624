"""kdbias demo"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, device, options, overwrite


@click.command("demo", cls=StageCommand)
@options(
    click.option(
        "-o", "--output", default="kdbias-demo", show_default=True, metavar="DIR", help="Folder to write."
    ),
    click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Students a scheme."),
    click.option("--quick", is_flag=True, help="A small size that ends in half a minute."),
    device,
    click.option(
        "--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads a run."
    ),
    overwrite,
)
def command(**parameters: Any) -> Any:
    """All stages on real digits, in minutes on two cores, offline.

    5,000 handwritten digits, cut to a long tail with near-duplicates: a teacher that comes with kdbias embeds
    them, density and uniformity are measured, four weight manifests are written, a student is distilled with
    each, and all are judged on balanced test digits. Every number comes from a file in DIR; the separate
    commands that do the same are printed.

    \b
    Examples:
      kdbias demo
      kdbias demo -o story --seeds 5
    """
    from kdbias.demonstration.story import demo

    return demo(**parameters)
