"""Pictures beside ``metrics.json``."""

from collections.abc import Sequence
from pathlib import Path

from kdbias.evaluation.task import Plot
from kdbias.tables.files import atomic_path


def save_plots(folder: Path, plots: Sequence[Plot]) -> list[str]:
    """Draw each plot into ``folder`` as PNG; returns the file names."""
    if not plots:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = []
    for plot in plots:
        figure = Figure(figsize=(6.4, 4.0), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        plot.draw(figure.add_subplot())
        names.append(f"{plot.name}.png")
        with atomic_path(folder / names[-1]) as temporary:
            figure.savefig(temporary, format="png")
    return names
