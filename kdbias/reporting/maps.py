"""Maps of the embeddings: where samples lie, coloured by density, witness and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.display.figure import Figure, panel
from kdbias.sphere.vectors import second_moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Sequential for log density (isolated to crowded), diverging for log weight (drawn less, as often, more
# than naturally); readable on white and on near-black.
_DENSITY = ("#4f86e8", "#2fa7a0", "#c9a227", "#e0662f", "#c22f5b")
_WEIGHT = ("#2f6fd6", "#78a4df", "#9a9a9a", "#e39a4b", "#d9541e")
_POINTS = 20_000
_WIDEST = 16.0  # weights beyond this factor share the end colours


def principal_directions(
    batches: Callable[[], Iterable[tuple[int, np.ndarray]]], d: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal components by streaming moments, so that n embeddings never stand in memory at once.

    Args:
        batches: called once; yields (start, vectors) with vectors (b, d) float32.
        d: dimension.

    Returns:
        mean (d,), the two leading directions (d, 2) and the share of the variance of each (2,), float64.
    """
    first, second, n = np.zeros(d), np.zeros((d, d)), 0
    for _, x in batches():
        first += x.sum(0, dtype=np.float64)
        second += second_moment(x)
        n += len(x)
    mean = first / n
    values, directions = np.linalg.eigh(second / n - np.outer(mean, mean))
    total = max(float(values.clip(0).sum()), 1e-30)
    leading = directions[:, ::-1][:, :2]
    leading = leading * np.where(leading[np.abs(leading).argmax(0), [0, 1]] < 0, -1.0, 1.0)
    return mean, leading, values[::-1][:2].clip(0) / total


def flat(batches: Callable[[], Iterable[tuple[int, np.ndarray]]], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 2) of embeddings on their two leading directions, and the variance share of each (2,).

    Args:
        batches: called twice; yields (start, vectors) with vectors (b, d) float32.
        d: dimension, at least 2.
    """
    mean, directions, variance = principal_directions(batches, d)
    return np.concatenate([(x - mean) @ directions for _, x in batches()]), variance


def embedding_maps(
    name: str,
    places: np.ndarray,
    variance: np.ndarray,
    log_density: np.ndarray | None,
    weights: Mapping[str, np.ndarray],
    bandwidth: str,
    witness: np.ndarray | None = None,
) -> Figure | None:
    """One panel coloured by log density, one by the witness, then one a scheme coloured by its weights.

    Args:
        name: unique within the page.
        places: (n, 2) coordinates.
        variance: (2,) share of the variance on each axis.
        log_density: (n,) or None.
        weights: scheme -> (n,), mean 1.
        bandwidth: the t of ``log_density``, as text.
        witness: (n,) of natural sampling against its target; None without one.
    """
    n = len(places)
    rows = np.arange(n)
    if n > _POINTS:
        rows = np.sort(np.random.default_rng(0).choice(n, _POINTS, replace=False))
    xy = places[rows]

    def scatter(axes: Axes, values: np.ndarray, colors: Sequence[str], **limits: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        size = float(np.clip(4500 / len(rows), 2.0, 16.0))
        order = np.argsort(values, kind="stable")
        dots = axes.scatter(
            xy[order, 0],
            xy[order, 1],
            c=values[order],
            s=size,
            linewidths=0,
            rasterized=True,
            alpha=0.85,
            cmap=LinearSegmentedColormap.from_list("", colors),
            **limits,
        )
        axes.set_xlabel(f"1st principal direction ({100 * variance[0]:.0f} % of variance)")
        axes.set_ylabel(f"2nd ({100 * variance[1]:.0f} %)")
        axes.grid(False)
        axes.set_aspect("equal", adjustable="datalim")
        bar: Any = axes.figure.colorbar(dots, ax=axes, pad=0.02, aspect=28)
        bar.outline.set_visible(False)

    panels = []
    if log_density is not None:
        values = log_density[rows]

        def draw_density(axes: Axes) -> None:
            scatter(axes, values, colors=_DENSITY)
            axes.figure.axes[-1].set_ylabel(f"log density (nats, t = {bandwidth})")
            axes.set_title("natural data", loc="left")

        panels.append(panel(f"{name}-density", draw_density, height=3.5))
    if witness is not None:
        off = witness[rows]
        most = float(np.quantile(np.abs(off), 0.99)) or 1.0

        def draw_witness(axes: Axes) -> None:
            scatter(axes, np.clip(off, -most, most), colors=_WEIGHT, vmin=-most, vmax=most)
            axes.figure.axes[-1].set_ylabel("over-full (> 0) or short (< 0)")
            axes.set_title("natural data, against the target", loc="left")

        panels.append(panel(f"{name}-witness", draw_witness, height=3.5))
    span = max([_spread(w[rows]) for w in weights.values()], default=0.0)
    for i, (scheme, w) in enumerate(weights.items()):
        if w.max() == w.min():
            continue

        def draw_weights(axes: Axes, w: np.ndarray = w[rows], scheme: str = scheme) -> None:
            with np.errstate(divide="ignore"):
                logs = np.clip(np.log2(w), -span, span)
            scatter(axes, logs, colors=_WEIGHT, vmin=-span, vmax=span)
            bar = axes.figure.axes[-1]
            whole = np.floor(span)
            ticks = np.unique(np.round(np.linspace(-whole, whole, 5)))
            bar.set_yticks(ticks, [f"×{2.0**k:g}" if k >= 0 else f"÷{2.0**-k:g}" for k in ticks])
            bar.set_ylabel("drawn, against natural")
            axes.set_title(scheme, loc="left")

        panels.append(panel(f"{name}-{i}", draw_weights, height=3.5))
    if not panels:
        return None
    shown = f" ({_POINTS:,} of {n:,} samples, drawn at random)" if n > _POINTS else ""
    second = "" if witness is None else "; second: orange ones are over-full against the target, blue short"
    caption = (
        f"The embeddings seen from the side that shows most of them: each dot is a sample{shown}. First "
        f"panel: red dots sit in crowds{second}. Other panels: orange dots are drawn more often than "
        "naturally, blue ones less. Good re-weighting paints the crowds blue and the empty stretches orange. "
        "Two directions show only the stated part of the variance: samples that overlap here may be far "
        "apart on the sphere."
    )
    return Figure(name, "Map of the embeddings", caption, tuple(panels))


def _spread(w: np.ndarray) -> float:
    """Largest |log2 weight| that the colours tell apart, from weights (n,)."""
    positive = w[w > 0]
    extreme = np.abs(np.log2(np.quantile(positive, [0.01, 0.99]))).max() if len(positive) else 0.0
    return float(np.clip(extreme, 1.0, np.log2(_WIDEST)))
