"""Kernel sums over far cells, from what is known of each cell, corrected by rows that were computed exactly.

A cell's members are its mean c and residuals r. To a sample x their kernels add up to the cell's mass times
exp(2t (x.c - 1)) times the mean of exp(2t x.r), in which the first order vanishes and the second is
2t^2 x'Sx with the cell's spread S. S is taken as the spread pooled over all cells, scaled to the cell's own
and to the part of x that is across the cell: its members have one length, so that they spread little along
their mean. What remains (higher orders, other shapes) is smooth in two numbers, the mean exponent of the
second order and x'Sx, and fitted as a regression estimator (Cochran, Sampling Techniques, ch. 7) on rows
whose far sums are known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbias.sphere.cells.cells import Cells, Rows
from kdbias.sphere.kernels import fastest_exponential
from kdbias.sphere.workers import Workspace

LARGEST_EXPONENT = 2.0
"""Of the second order: a cell that is wider says by its spread only that it should be looked into."""

_TINY = 1e-12
_LEAST = 1e-6
_ROUNDING = 1e-6
FEATURES = 3


@dataclass(frozen=True)
class CellMoments:
    """What is known of each of c cells under one weighting; float32.

    Attributes:
        means: (c, d) weighted means of the members.
        lengths: (c,) their squared lengths.
        spread: (c,) 1 less that: the mean squared length of residuals.
        mass: (c,) sums of p n.
        squares: (c,) sums of (p n)^2.
    """

    means: np.ndarray
    lengths: np.ndarray
    spread: np.ndarray
    mass: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray | Rows, cells: Cells, weights: np.ndarray | None = None) -> "CellMoments":
        """From (n, d) rows and weights p n (n,); None weighs all 1. A cell of no mass has a mean of all."""
        on, count, sizes = Rows.of(x), cells.count, cells.sizes.astype(np.float64)
        mass: np.ndarray = sizes
        squares: np.ndarray = sizes
        sums = on.sums(cells.cell, count, weights=weights)
        if weights is not None:
            mass, squares = (np.bincount(cells.cell, weights**power, count) for power in (1, 2))
            none = mass <= 0
            if none.any():
                sums[none] = on.sums(np.where(none[cells.cell], cells.cell, -1), count)[none]
        means = sums / np.where(mass > 0, mass, sizes)[:, None]
        lengths = np.einsum("cd,cd->c", means, means)
        numbers = (means, np.maximum(lengths, _TINY), np.maximum(1 - lengths, 0), mass, squares)
        return cls(*(np.ascontiguousarray(a, dtype=np.float32) for a in numbers))


def pooled_spread(x: np.ndarray | Rows, natural: CellMoments) -> np.ndarray:
    """(d, d) float32: second moment of the residuals of all cells; zero where there are none."""
    on, means = Rows.of(x), natural.means.astype(np.float64)
    spread = (on.moment() - (means.T * natural.mass) @ means) / len(on.x)
    return spread.astype(np.float32)


@dataclass(frozen=True)
class FarBlock:
    """What a block of r rows sees of far cells, for each of several near parts.

    Attributes:
        near: list of (r, c) bool, which cells are near.
        features: (near parts, m, T, 3, r) float64: the model's sum, the mean exponent of the second order in
            it, and the row's x'Sx.
        errors: (near parts, m, T, r) float64, standard deviation of far sums if residuals were Gaussian.
    """

    near: list[np.ndarray]
    features: np.ndarray
    errors: np.ndarray


class FarModel:
    """Cells as seen from afar, under m weightings.

    What is as large as a block of rows times all cells lies in a thread's scratch memory: fresh memory would
    cost more than the numbers in it.

    Arrays are NumPy's here; `device.DeviceFar` has torch's, whose functions go by the same names.

    Args:
        natural: the cells' moments with all samples alike; decides which cells are near.
        weighted: m moments, ``natural`` itself where a weighting is uniform.
        spread: (d, d) of `pooled_spread`.
        bandwidths: T numbers t.
    """

    _xp: Any = np

    def __init__(
        self,
        natural: CellMoments,
        weighted: Sequence[CellMoments],
        spread: np.ndarray,
        bandwidths: Sequence[float],
    ) -> None:
        self.natural, self.weighted, self.spread = natural, weighted, spread
        self.bandwidths = bandwidths
        # Exponents are kept in units of log 2 where that makes exponentials cheaper.
        self._exp: Any
        self._exp, self._unit = fastest_exponential()
        self.total = float(natural.mass.sum())

    def urgency(self, x: np.ndarray, workspace: Workspace) -> np.ndarray:
        """(r, c) how much each cell's members would be missed by rows x (r, d); scratch memory.

        It is the second-order part of a member's kernel over the row's whole sum, at the bandwidth where that
        is largest: the errors that far members leave are of its size, and taking a cell in costs a product
        with each of its members.
        """
        view = self._view(x, self.natural, workspace)
        return self.numbers(self._all(view, self.natural, True, workspace)[0])

    def numbers(self, values: Any) -> np.ndarray:
        """An array of this model's as one of NumPy."""
        return np.asarray(values)

    def block(
        self, x: np.ndarray, always: np.ndarray, thresholds: Sequence[float], workspace: Workspace
    ) -> FarBlock:
        """Rows x (r, d): near are cells ``always`` (r, any number) and all of at least that urgency."""
        m, count, bandwidths, r = len(self.weighted), len(thresholds), len(self.bandwidths), len(x)
        natural = self._view(x, self.natural, workspace)
        urgency, of_all = self._all(natural, self.natural, True, workspace)
        near = []
        for threshold in thresholds:
            near.append(urgency >= threshold)
            self._mark(near[-1], always)
        features, errors = np.empty((count, m, bandwidths, FEATURES, r)), np.empty((count, m, bandwidths, r))
        for i, moments in enumerate(self.weighted):
            view, total = natural, of_all
            if moments is not self.natural:
                view = self._view(x, moments, workspace)
                total = self._all(view, moments, False, workspace)[1]
            for k, mask in enumerate(near):
                far = total - self._some(view, moments, mask)
                far[far < _LEAST * total] = 0  # what is left of two equal sums
                features[k, i, :, 0] = far[:, 0]
                features[k, i, :, 1] = far[:, 1] / np.maximum(far[:, 0], _TINY)
                errors[k, i] = np.sqrt(far[:, 2])
        features[:, :, :, 2] = self.numbers(((x @ self.spread) * x).sum(1))
        return FarBlock(near, features, errors)

    def _mark(self, mask: Any, cells: np.ndarray) -> None:
        """Set the cells (r, any number) of rows in a mask (r, c)."""
        mask[np.arange(len(mask))[:, None], cells] = True

    def _all(
        self,
        view: tuple[np.ndarray, np.ndarray],
        moments: CellMoments,
        urgent: bool,
        workspace: Workspace,
        mask: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Urgency (r, c), scratch memory, empty unless wanted; and sums over all cells, or over those of a
        mask (r, c): (T, 3, r), as of `_some`.
        """
        shape = view[0].shape
        largest = workspace.array("urgency", shape if urgent else (0, 0))
        largest[...] = 0
        sums = np.empty((len(self.bandwidths), 3, len(view[0])))
        scratch = workspace.array("kernel", shape), workspace.array("bend", shape)
        for j, t in enumerate(self.bandwidths):
            kernel, bend = self._kernel(view, t, scratch)
            if mask is not None:
                kernel *= mask
            seen = kernel @ moments.mass
            bend *= kernel
            sums[j, 0], sums[j, 1] = self.numbers(seen), self.numbers(bend @ moments.mass)
            if urgent:
                urgency = self._xp.multiply(bend, (1 / (seen + 1))[:, None], out=kernel)
                self._xp.maximum(largest, urgency, out=largest)
            bend *= bend
            sums[j, 2] = self.numbers(bend @ moments.squares)
        return largest, sums

    def _some(
        self, view: tuple[np.ndarray, np.ndarray], moments: CellMoments, mask: np.ndarray
    ) -> np.ndarray:
        """(T, 3, r) sums over some cells: of the model, of it times its exponents, of the squares of that."""
        sums = np.empty((len(self.bandwidths), 3, len(mask)))
        flat = np.flatnonzero(mask)  # several times faster than in two dimensions
        cells = flat % mask.shape[1]
        part = view[0].reshape(-1)[flat], view[1].reshape(-1)[flat]
        starts = np.searchsorted(flat, np.arange(len(mask)) * mask.shape[1])  # no row is empty
        mass, squares = moments.mass[cells], moments.squares[cells]
        scratch = np.empty_like(part[0]), np.empty_like(part[0])
        for j, t in enumerate(self.bandwidths):
            kernel, bend = self._kernel(part, t, scratch)
            bend *= kernel
            for i, values in enumerate((kernel * mass, bend * mass, bend * bend * squares)):
                sums[j, i] = np.add.reduceat(values, starts, dtype=np.float64)
        return sums

    def _view(
        self, x: np.ndarray, moments: CellMoments, workspace: Workspace
    ) -> tuple[np.ndarray, np.ndarray]:
        """(r, c) 2 (x.c - 1), and 2 x'Sx scaled to each cell and to the part of x across it; scratch memory,
        one for natural moments and one for others.
        """
        shape, kind = (len(x), len(moments.means)), "natural" if moments is self.natural else "weighted"
        along, across = (workspace.array(f"{kind} {name}", shape) for name in ("along", "across"))
        self._xp.matmul(x, moments.means.T, out=along)
        self._xp.square(along, out=across)
        across /= -moments.lengths
        across += 1
        self._xp.clip(across, 0.0, 1.0, out=across)
        # Weighted by mass, the scaled spreads add up to the pooled one.
        total = (across @ (self.natural.mass * moments.spread))[:, None] / self.total + _TINY
        size = ((x @ self.spread) * x).sum(1)[:, None]
        across *= moments.spread
        across *= 2 / self._unit * size / total
        along -= 1
        along *= 2 / self._unit
        return along, across

    def _kernel(
        self,
        view: tuple[np.ndarray, np.ndarray],
        t: float,
        out: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean kernel of each cell's members at bandwidth t and the second order's exponent, in ``out``."""
        (along, across), (kernel, bend) = view, out
        self._xp.multiply(across, t * t, out=bend)
        self._at_most(bend, LARGEST_EXPONENT / self._unit)
        self._xp.multiply(along, t, out=kernel)
        kernel += bend
        self._at_most(kernel, 0.0)
        return self._exp(kernel, out=kernel), bend

    def _at_most(self, values: Any, most: float) -> None:
        """Clip in place; a look whether that is needed takes a quarter of the time."""
        if values.size and values.max() > most:
            np.clip(values, None, most, out=values)


@dataclass(frozen=True)
class Correction:
    """Far sums from features: the model's sum times a factor that is linear in the two other features.

    Attributes:
        factors: (m, T, 3) intercept and slopes.
        centre, reach: (m, T, 2) middle and half-width of either feature's range in the fit; beyond it, it
            counts as at its end.
    """

    factors: np.ndarray
    centre: np.ndarray
    reach: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, far: np.ndarray, scale: np.ndarray) -> "Correction":
        """Least squares of relative errors, held to the model itself by as much as float32 rounds sums.

        So far sums that are nothing but rounding, such as of large bandwidths, are not fitted.

        Args:
            features: (m, T, 3, r) as of `FarBlock`.
            far: (m, T, r) the known sums.
            scale: (m, T, r) what errors are relative to.
        """
        low, high = features[:, :, 1:].min(axis=-1), features[:, :, 1:].max(axis=-1)
        empty = cls(np.zeros((*far.shape[:2], FEATURES)), (low + high) / 2, (high - low) / 2)
        terms = empty._terms(features) / scale[:, :, None]
        held = _ROUNDING * math.sqrt(far.shape[2]) * np.eye(FEATURES)
        for i, j in np.ndindex(*far.shape[:2]):
            rows, wanted = np.vstack([terms[i, j].T, held]), np.append(far[i, j] / scale[i, j], held[0])
            empty.factors[i, j] = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        return empty

    def _terms(self, features: np.ndarray) -> np.ndarray:
        """(m, T, 3, r)"""
        reach = np.maximum(self.reach, _TINY)[..., None]
        rest = np.clip((features[:, :, 1:] - self.centre[..., None]) / reach, -1, 1)
        rest *= (self.reach > _TINY)[..., None]
        return features[:, :, :1] * np.concatenate([np.ones_like(rest[:, :, :1]), rest], axis=2)

    def far(self, features: np.ndarray) -> np.ndarray:
        """(m, T, r) far sums; never negative."""
        return np.maximum(np.einsum("mtf,mtfr->mtr", self.factors, self._terms(features)), 0.0)
