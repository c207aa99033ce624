"""Figures of samples: how crowded they sit, how often each is drawn, and who they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.display.figure import INK, SERIES, Figure, Look, legend_below, panel, plain_log_ticks
from kdbias.tables.weight_manifest import never_drawn
from kdbias.wording import counted, cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 40
_MOST_GROUPS = 12


def density_histogram(
    name: str,
    log_density: np.ndarray,
    weights: Mapping[str, np.ndarray],
    look: Mapping[str, Look],
    bandwidth: str,
    aimed: bool = False,
) -> Figure:
    """Share of draws over log density.

    Args:
        name: unique within the page.
        log_density: (n,) natural log of the potential of each sample, at most 0; samples without one (NaN)
            are left out.
        weights: scheme -> (n,) weights of the same samples; ``natural`` is added.
        look: colours by scheme.
        bandwidth: the t of ``log_density``, as text.
        aimed: whether there is a target, so that crowded samples may be what is wanted.
    """
    known = np.isfinite(log_density)
    weights = {scheme: w[known] for scheme, w in weights.items()}
    log_density = log_density[known]
    low, high = (float(log_density.min()), float(log_density.max())) if known.any() else (0.0, 0.0)
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)

    def draw(axes: Axes) -> None:
        for scheme, w in {"natural": np.ones_like(log_density), **weights}.items():
            share, _ = np.histogram(log_density, bins=edges, weights=100 * w / w.sum())
            filled = scheme == "natural"
            shape = {"fill": True, "alpha": 0.3, "linewidth": 0} if filled else {}
            axes.stairs(share, edges, **(look[scheme].stroke | shape))
        axes.set_xlabel(f"log density (nats, t = {bandwidth}); right = crowded")
        axes.set_ylabel("share of draws (%)")
        legend_below(axes, 3)

    moves = "Rectifying moves mass from the right (many near neighbours) to the left (isolated samples)"
    if aimed:
        moves = "Matching moves mass to where the target has more of it, be that crowded or not"
    caption = (
        "How crowded the samples are that training gets to see. The filled shape is the data as it is "
        f"(natural sampling); each line is what a weight manifest draws from it. {moves}; a line far beyond "
        "the filled shape on the left means that few samples are repeated often."
    )
    return Figure(name, "Density of the data, and as sampled", caption, (panel(name, draw),))


def weight_histogram(name: str, weights: Mapping[str, np.ndarray], look: Mapping[str, Look]) -> Figure | None:
    """Histogram of the weights (mean 1) over a logarithmic axis; None where every scheme is constant."""
    varied = {s: w for s, w in weights.items() if w.max() > w.min()}
    if not varied:
        return None
    positive = np.concatenate([w[w > 0] for w in varied.values()])
    low = max(positive.min(), positive.max() * 1e-6)
    edges = np.geomspace(low * 0.999, positive.max() * 1.001, _BINS + 1)

    def draw(axes: Axes) -> None:
        for scheme, w in varied.items():
            inside = np.clip(w[w > 0], edges[0], edges[-1])
            share = np.histogram(inside, bins=edges)[0] * (100 / len(w))
            zeros = never_drawn(w)
            label = f"{scheme} ({zeros:,} never drawn)" if zeros else scheme
            axes.stairs(share, edges, **(look[scheme].stroke | {"label": label}))
        axes.axvline(1.0, color=SERIES[0], linewidth=1.6, linestyle=":", label="natural (1 draw each)")
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
        axes.set_xlabel("weight (expected draws an epoch)")
        axes.set_ylabel("share of samples (%)")
        legend_below(axes, 2)

    caption = (
        "How often each sample is drawn in an epoch of as many draws as there are samples. The dotted "
        "line is natural sampling (every sample once on average). A long tail to the right is a price: "
        "those few samples are memorised, which the effective sample size counts."
    )
    return Figure(name, "Weights", caption, (panel(name, draw),))


def lorenz_curve(name: str, weights: Mapping[str, np.ndarray], look: Mapping[str, Look]) -> Figure:
    """Cumulative share of draws over samples sorted by weight."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=SERIES[0], linewidth=1.6, linestyle=":", label="natural")
        for scheme, w in weights.items():
            if scheme == "natural":
                continue
            x, y = lorenz(w)
            axes.plot(100 * x, 100 * y, **look[scheme].stroke)
        axes.set_xlabel("samples, least drawn first (%)")
        axes.set_ylabel("draws (%)")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        legend_below(axes, 3)

    caption = (
        "Lorenz curve: which share of the draws goes to the least drawn samples. On the diagonal every "
        "sample is drawn equally often; the further a curve hangs below it, the fewer samples carry the "
        "epoch."
    )
    return Figure(name, "Concentration of the draws", caption, (panel(name, draw),))


def lorenz(weights: np.ndarray, points: int = 201) -> tuple[np.ndarray, np.ndarray]:
    """(points,) shares of samples, least drawn first, and the share of draws they get, both in [0, 1]."""
    cumulative = np.concatenate([[0.0], np.cumsum(np.sort(weights))])
    share = np.linspace(0, 1, points)
    return share, np.interp(share * len(weights), np.arange(len(weights) + 1), cumulative / cumulative[-1])


@dataclass(frozen=True)
class GroupShares:
    """Share of the samples in each group, of the draws under each scheme, and in the target if it is known.

    Each array sums to 1, but that of the target where it has values that the data lack.
    """

    column: str
    values: tuple[str, ...]
    natural: np.ndarray
    schemes: Mapping[str, np.ndarray]
    target: np.ndarray | None = None


def group_shares(
    column: str,
    groups: Sequence[str | None],
    weights: Mapping[str, np.ndarray],
    target: Mapping[str | None, float] | None = None,
) -> GroupShares:
    """Shares by group value, most frequent first; null is its own group, rare values are put together.

    Args:
        target: share of each value in the target; None where it is not known.
    """
    texts = np.array(["(none)" if g is None or g == "" else str(g) for g in groups], dtype=object)
    values, codes, counts = np.unique(texts, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = order if len(order) <= _MOST_GROUPS else order[: _MOST_GROUPS - 1]
    place = np.full(len(values), len(kept))
    place[kept] = np.arange(len(kept))
    names = [str(values[i]) for i in kept]
    if len(kept) < len(order):
        names.append(counted(len(order) - len(kept), "other"))
    where = place[codes]

    def shares(w: np.ndarray) -> np.ndarray:
        return np.bincount(where, weights=w, minlength=len(names)) / w.sum()

    wanted = None
    if target is not None:
        wanted = np.zeros(len(names))
        for value, share in target.items():
            found = np.flatnonzero(values == (value or "(none)"))
            wanted[place[found]] += share
    return GroupShares(
        column,
        tuple(names),
        shares(np.ones(len(texts))),
        {s: shares(w) for s, w in weights.items() if s != "natural"},
        wanted,
    )


def group_figure(name: str, shares: GroupShares, look: Mapping[str, Look]) -> Figure:
    """Dots on one line a group: share of samples, and of draws under each scheme."""
    rows = np.arange(len(shares.values))[::-1]

    def draw(axes: Axes) -> None:
        wanted = [] if shares.target is None else [shares.target]
        everything = np.vstack([shares.natural, *shares.schemes.values(), *wanted]) * 100
        axes.hlines(rows, everything.min(0), everything.max(0), color=INK, alpha=0.25, linewidth=2)
        axes.plot(100 * shares.natural, rows, **look["natural"].dots, markersize=6)
        for scheme, share in shares.schemes.items():
            axes.plot(100 * share, rows, **look[scheme].dots, markersize=5.5, alpha=0.9)
        for share in wanted:
            hollow: dict[str, Any] = {"linestyle": "none", "marker": "s", "markerfacecolor": "none"}
            axes.plot(100 * share, rows, **hollow, color=INK, markersize=8, label="in the target")
        axes.set_yticks(rows, [cut(value, 18) for value in shares.values])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(left=-0.03 * float(everything.max()))  # a marker at 0 stays whole
        axes.set_xlabel("share of the draws (%)")
        axes.set_ylabel(cut(shares.column, 24))
        legend_below(axes, 3)

    caption = (
        f"Who is drawn: share of each value of “{shares.column}” in the data (diamond) and in the draws of "
        "each scheme (dots)"
        + ("" if shares.target is None else ", and in the target (hollow squares)")
        + ". Schemes that use no labels move only what the embeddings show."
    )
    height = 1.4 + 0.27 * len(rows)
    return Figure(name, f"Draws by {shares.column}", caption, (panel(name, draw, height=height),))
