"""kdbias evaluate"""

import math
from typing import Any

import click

from kdbias.cli.common import (
    StageCommand,
    data_columns,
    options,
    overwrite,
    root,
    seed,
    teacher_folder,
    teacher_output,
    where,
)
from kdbias.evaluation import PROTOCOLS


class _Listed(click.ParamType):
    """Numbers with commas between them."""

    name = "A,B,..."

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(map(math.isfinite, numbers)):
            self.fail(f"{value!r} is not a list of numbers with commas between them", param, ctx)
        return numbers


@click.command("evaluate", cls=StageCommand)
@options(
    click.argument("model", metavar="MODEL|EMB"),
    teacher_folder,
    click.option(
        "--protocol",
        default="knn",
        show_default=True,
        type=click.Choice(list(PROTOCOLS)),
        help="How to judge.",
    ),
    click.option("--data", help="Data to embed with the model (MODEL = a run folder or a teacher spec)."),
    teacher_output,
    data_columns,
    root,
    where,
    click.option(
        "--reference", metavar="EMB", help="knn, fidelity: the teacher's embeddings of the same samples."
    ),
    click.option(
        "--gallery",
        metavar="EMB",
        help="knn, reid: where to search [the judged table, less the sample]; linear: what to learn from.",
    ),
    click.option(
        "--gallery-where",
        multiple=True,
        metavar="COLUMN=VALUE",
        help="Keep these rows of the gallery, or without --gallery of the judged table.",
    ),
    click.option(
        "--group-by", multiple=True, metavar="COLUMN", help="Report by this column, too; repeatable."
    ),
    click.option(
        "--cluster-by",
        metavar="COLUMN",
        help="Resample its values as a whole, '' for unit by unit [the label, where it names identities].",
    ),
    click.option("--k", type=click.IntRange(1), help="knn: neighbours that vote [5]."),
    click.option(
        "--tail-from", metavar="TABLE", help="knn, linear: whose label counts say which classes are the tail."
    ),
    click.option("--density", metavar="DENSITY", help="fidelity: report by decile of density."),
    click.option(
        "--pairs", metavar="PATH", help="verification, ijbc: list of pairs; rfw: or a folder of lists."
    ),
    click.option("--folds", type=_Listed(int), help="verification, rfw: folds of the list to use, e.g. 7,8."),
    click.option(
        "--style",
        type=click.Choice(["insightface", "facex", "exact"]),
        help="verification, rfw: thresholds and spreads.",
    ),
    click.option(
        "--flip-fusion",
        type=click.Choice(["raw", "unit"]),
        help="verification, rfw, ijbc: add both views raw [raw] or as unit vectors.",
    ),
    click.option(
        "--far", type=_Listed(float), help="verification, ijbc: false accept rates, e.g. 1e-3,1e-4."
    ),
    click.option("--group-column", metavar="COLUMN", help="rfw: column that splits one list into groups."),
    click.option("--camera-column", metavar="COLUMN", help="reid: column with the camera, or none."),
    click.option("--templates", metavar="PATH", help="ijbc: the benchmark's template file."),
    click.option("--detector-scores", metavar="PATH", help="ijbc: the benchmark's landmark and score file."),
    click.option("--keep-norm/--no-keep-norm", default=None, help="ijbc: let embedding lengths count [yes]."),
    click.option(
        "--bootstrap",
        type=click.IntRange(0, 1_000_000),
        help="Resamples behind the intervals [1,000]; 0 for none.",
    ),
    seed("the resampling"),
    click.option("--device", metavar="auto|cpu|cuda[:N]", help="--data: where to embed [auto]."),
    click.option("--batch-size", type=click.IntRange(1), help="--data: images a batch [64]."),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "fp16"]),
        help="--data: arithmetic of the forward pass [fp32].",
    ),
    click.option("--workers", type=click.IntRange(0), help="--data: decoding processes [2]."),
    click.option(
        "--flip", is_flag=True, help="--data, verification, rfw, ijbc: embed the mirrored image, too."
    ),
    overwrite,
)
def command(**parameters: Any) -> Any:
    """Judge a model or an embedding table by a protocol; writes OUT/metrics.json, units.parquet and plots.

    MODEL|EMB is an embedding table, or with --data a run folder or any teacher spec.

    \b
    Protocols:
      knn           accuracy of the nearest class centroid and of k neighbours; overall, balanced, tail
      linear        accuracy of a linear classifier on frozen embeddings
      fidelity      distance to the teacher's embeddings of the same samples; by group and density
      verification  pairs over folds (LFW, CFP, AgeDB), TAR@FAR
      rfw           verification by group, its spread and error ratio
      ijbc          templates pooled over media, TAR@FAR
      reid          CMC, mAP, mINP without same-camera matches

    docs/protocols.md says what each reads and how it was checked.

    \b
    Examples:
      kdbias evaluate run -o score --data test.parquet --gallery teacher_emb
      kdbias evaluate student_emb -o close --protocol fidelity --reference teacher_emb --group-by race
    """
    from kdbias.evaluation import evaluate

    parameters = {name: value for name, value in parameters.items() if value is not None}
    return evaluate(**parameters)
