"""What a finished run is, and what was seen on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.embedding.parts import FAILURES
from kdbias.networks.saved import FILE_NAME
from kdbias.planning import Planned
from kdbias.tables.csv_file import read_csv
from kdbias.tables.run_record import Run
from kdbias.training.record import METRICS
from kdbias.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class TrainingResult(Result):
    """What a run ended with.

    output   the run folder; `student` the file with the trained network
    loss     mean loss of the last epoch
    epochs, steps, seconds   how much was trained (seconds: all sessions of the run together)
    failures   samples whose images could not be read; failures.parquet lists them
    planned   what it would take and write, where that alone was asked
    already_finished   True where the call found the run finished and did nothing
    """

    output: Path
    student: Path
    loss: float
    epochs: int
    steps: int
    seconds: float
    failures: int = 0
    already_finished: bool = False
    planned: Planned | None = None

    def blocks(self) -> list[str | Table]:
        """A line; of a plan, the plan."""
        if self.planned is not None:
            return [self.planned.summary()]
        failed = f"; {counted(self.failures, 'sample')} cannot be read ({FAILURES})" if self.failures else ""
        return [
            f"{self.student}: {counted(self.epochs, 'epoch')}, {counted(self.steps, 'step')}, "
            f"loss {self.loss:.4f}, {self.seconds:.1f} s{failed}"
        ]

    def to_pandas(self) -> pd.DataFrame:
        """What was recorded on the way (``metrics.csv``), a row an epoch."""
        self.require_made()
        return read_csv(self.output / METRICS).to_pandas()

    def plot(self) -> Figure:
        """The loss over the epochs."""
        from kdbias.display import plots

        seen = self.to_pandas()
        return plots.figure(plots.curve(seen["epoch"], seen["loss"], "epoch", "mean loss", self.output.name))


def result_of(run: Run, already_finished: bool = False) -> TrainingResult:
    """The result of a finished run, from its record."""
    run.require({"counts": {"steps": int, "epochs": int}, "seconds": float, "results": {"loss": float}})
    counts, results = run.record["counts"], run.record["results"]
    return TrainingResult(
        output=run.out,
        student=run.out / FILE_NAME,
        loss=results["loss"],
        epochs=counts["epochs"],
        steps=counts["steps"],
        seconds=run.record["seconds"],
        failures=counts.get("failures", 0),
        already_finished=already_finished,
    )
