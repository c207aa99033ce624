"""How far the data are from a target, as they come and as each scheme draws them.

All of it is seen through the mean kernel over `LADDER`. A reference is a sample itself: what is measured
against it comes with its noise, an interval over references of its size, and a two-sample test.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.measurement.distribution import Sampling, rectification
from kdbias.measurement.passes import PassPlan
from kdbias.measurement.references import DRAWS, References
from kdbias.placing import placed
from kdbias.progress import say
from kdbias.sphere.all_pairs import fitting_tile
from kdbias.sphere.equilibrium.block_kernel import BlockKernel
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, TiledKernel
from kdbias.sphere.equilibrium.target import kernel_means
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.places import found_again
from kdbias.tables.provenance import paths_in
from kdbias.tables.run_record import Run
from kdbias.targets.opening import OpenTarget, open_target
from kdbias.targets.settings import EACH_ALONE, Aiming, Named

Fields = tuple[np.ndarray, np.ndarray | None]
"""(m, n) K p under the mean kernel, and (m,) standard errors of p'Kp; None where it is exact."""
LEVEL = 0.05
"""p-values below it say that the data differ."""
_TENTH = 0.1  # of natural sampling's discrepancy: the noise of a reference that is large enough
_EXACT = 1e-6  # what float32 products resolve of the constant, which is at most 1


class Comparison:
    """Samplings of one data set held against a target.

    Args:
        x: (n, d) float32 unit rows, the data.
        opened: the target.
        own: (n,) K q of the masses q of a ``balanced`` target; None for others.
        seed: of tests and intervals.
        threads: CPU threads.
        means: as of `reference_target`.
    """

    def __init__(
        self,
        x: np.ndarray,
        opened: OpenTarget,
        own: np.ndarray | None,
        seed: int,
        threads: int,
        means: Callable[..., np.ndarray] = kernel_means,
    ) -> None:
        self.x, self.opened, self.seed, self.threads, self.means = x, opened, seed, threads, means
        self.target = opened.of(x, LADDER, lambda q: own, threads=threads, means=means)  # type: ignore[arg-type, return-value]
        self._references = None if opened.vectors is None else References(opened, seed)
        self._rng = np.random.default_rng(seed)
        self._off: dict[str, np.ndarray] = {}  # (draws,) errors of each scheme's discrepancy

    def measure(
        self, samplings: Sequence[Sampling], fields: np.ndarray, errors: np.ndarray | None = None
    ) -> None:
        """Fill in ``witness`` and the numbers in ``discrepancy`` that need no other scheme.

        Args:
            fields: (m, n) K p of each.
            errors: (m,) standard errors of p'Kp; None where it is exact.
        """
        if self._references is not None:
            natural = np.full(len(self.x), 1 / len(self.x))
            seen = self._references.seen_from(
                self.x, np.stack([natural, *(s.p for s in samplings)]), self.threads, self.means
            )
            for name, off in zip(["natural", *(s.name for s in samplings)], seen, strict=True):
                self._off[name] = off
        for i, (sampling, field) in enumerate(zip(samplings, fields, strict=True)):
            error = None if errors is None else float(errors[i])
            sampling.witness = self.target.witness(field)
            sampling.discrepancy = self._numbers(sampling, field, error)

    def _numbers(self, sampling: Sampling, field: np.ndarray, error: float | None) -> dict[str, Any]:
        target, p = self.target, sampling.p
        value, unbiased = target.discrepancy(p, field), target.unbiased_discrepancy(p, field)
        if error is not None and sampling.name in self._off:
            self._off[sampling.name] += self._rng.normal(0, error, DRAWS)
        test, reason = self._test(sampling)
        return {
            "value": value,
            "unbiased": unbiased,
            "standard_error": error,
            "interval": None if unbiased is None else interval(unbiased, self._off.get(sampling.name)),
            "noise_ratio": value / target.noise if target.noise > _EXACT else None,
            "removed": None,
            "removed_interval": None,
            "rectification": None,
            "rectification_reason": "not computed",
            "p_value": test and test["p_value"],
            "test": test,
            "reason": reason,
        }

    def _test(self, sampling: Sampling) -> tuple[dict[str, Any] | None, str | None]:
        """The two-sample test of a sampling, or why there is none."""
        try:
            p = None if sampling.weights is None else sampling.p
            found = self.opened.test(self.x, LADDER, p, seed=self.seed)
        except KdbiasError as error:
            return None, str(error)
        if found is None:
            return None, "a two-sample test needs a reference: this target is known exactly"
        return asdict(found), None

    def entry(self, natural: Sampling, columns: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
        """``target`` of ``uniformity.json``.

        Args:
            natural: measured.
            columns: ``columns`` and ``blind``, see `shares.compare_columns`.
            best: the least discrepancy that any re-weighting reaches, see `best.nearest`.
        """
        opened, target, found = self.opened, self.target, natural.discrepancy
        assert found is not None
        test = found["test"]
        if opened.size is None:
            differs = found["value"] > _EXACT * target.constant
        else:  # a single sample of data cannot be told from anything
            differs = test is not None and test["p_value"] < LEVEL
        unbiased, needed = found["unbiased"], None
        if test is not None and differs and unbiased and unbiased > 0:
            needed = math.ceil(target.noise * (opened.size or 0) / (_TENTH * unbiased))
        return {
            "towards": opened.named.text,
            "kind": opened.named.recorded,
            "size": opened.size,
            "effective_size": target.size,
            "fingerprints": opened.inputs,
            "kernel": list(LADDER),
            "with": opened.column,
            "cluster_by": opened.clustered,
            "constant": target.constant,
            "noise": target.noise,
            "test": test,
            "differs": bool(differs),
            "notes": list(opened.notes),
            **columns,
            "needed": needed,
            "best": best,
        }

    def judge(self, samplings: Sequence[Sampling], natural: Sampling, target: dict[str, Any]) -> None:
        """Fill in how much of natural sampling's discrepancy each scheme removes; ``test`` goes.

        Args:
            natural: measured, now or before.
            target: what `entry` gave.
        """
        before = natural.discrepancy
        assert before is not None
        for sampling in samplings:
            found = sampling.discrepancy
            assert found is not None
            found.pop("test")
            start = target["best"]["natural_energy"] or before["value"]
            found["rectification"], found["rectification_reason"] = rectification(
                found["value"], start, target["best"], sampling is natural, "from this target"
            )
            if not target["differs"]:
                found["reason"] = (
                    "the data do not differ measurably from the target: nothing is to be removed"
                )
                found["rectification"], found["rectification_reason"] = None, found["reason"]
                continue
            found["removed"] = 1 - found["value"] / before["value"]
            off = [self._off.get(one.name) for one in (sampling, natural)]
            if sampling is not natural and off[0] is not None and off[1] is not None:
                found["removed_interval"] = _share_interval(found["value"] + off[0], before["value"] + off[1])


def product_fields(x: np.ndarray, codes: np.ndarray, p: np.ndarray, plan: PassPlan) -> np.ndarray:
    """(m, n) float64 K p under the product of the mean kernel and that of a column, over all pairs.

    Args:
        x: (n, d) float32 unit rows; where they are mapped, by units.
        codes: (n,) the column's values.
        p: (m, n) probabilities.
        plan: how pairs are seen.

    Raises:
        KdbiasError: too little memory.
    """
    blocks, threads = plan.blocks, plan.threads
    rows = blocks.of_rows(x) if blocks is not None else 0
    if blocks is not None and rows:
        kernel: TiledKernel = BlockKernel(blocks.ground, x, LADDER, rows, codes)
    else:
        what = f"{len(x):,} samples under {len(p)} weighting(s) with a column"
        tile = fitting_tile(lambda tile: 40 * p.size + 32 * threads * tile * tile, plan.settings.memory, what)
        kernel = TiledKernel(x, LADDER, kept=None, threads=threads, tile=tile, codes=codes)
    return np.ascontiguousarray(kernel.apply(np.ascontiguousarray(p.T), exact=True).T)


def interval(value: float, off: np.ndarray | None) -> list[float] | None:
    """95 % of what references like this one would have given: quantiles of the bootstrap."""
    return None if off is None else [float(value + q) for q in np.quantile(off, [0.025, 0.975])]


def _share_interval(after: np.ndarray, before: np.ndarray) -> list[float] | None:
    """95 % of 1 - after / before over draws; None where natural sampling's may be none."""
    known = before > 0
    if known.mean() < 0.975:
        return None
    return [float(v) for v in np.quantile(1 - after[known] / before[known], [0.025, 0.975])]


def same_target(aim: OpenTarget, target: dict[str, Any] | None) -> bool:
    """Whether a target is that of `uniformity.json` (None: it has none)."""
    now = (aim.named.recorded, aim.inputs, aim.column, aim.clustered)
    keys = ("kind", "fingerprints", "with", "cluster_by")
    return target is not None and now == tuple(target.get(key) for key in keys)


def another(aim: OpenTarget, target: dict[str, Any] | None, run: Run) -> bool:
    """Whether a target is another one than that of a folder (None: it has none), which is then said."""
    if target is None:
        return True
    if same_target(aim, target):
        return False
    names = [
        text + (f" with {column}" if column else "") + (f", clustered by {by}" if by else "")
        for text, column, by in (
            (target["towards"], target["with"], target.get("cluster_by")),
            (aim.named.text, aim.column, aim.clustered),
        )
    ]
    say(f"{run.out} was measured against {names[0]}; all its schemes are now measured against {names[1]}")
    return True


def remembered_path(folder: Path, record: dict[str, Any], target: dict[str, Any]) -> str:
    """What a folder is measured against, as `--towards` names it, from where it lies by now."""
    towards = paths_in(record).get("towards") or target["towards"]
    named = Named.of(towards)
    if named.kind != "reference":
        return towards
    known = target["fingerprints"].get("towards")
    return replace(named, what=found_again(named.what, folder, known)).text


def remembered(
    run: Run,
    target: dict[str, Any],
    table: EmbeddingTable,
    load: Callable[[EmbeddingTable], np.ndarray] = EmbeddingTable.vectors,
) -> OpenTarget:
    """The target that a folder is measured against, from where it lay; ``load`` as of `open_target`.

    Raises:
        KdbiasError: it is not there any more, or another one is.
    """
    path = remembered_path(run.out, run.record, target)
    way = "name a target with --towards to measure all schemes against it"
    try:
        clustered = target.get("cluster_by") or EACH_ALONE if target["size"] else None
        named = placed("target", path)
        aim = open_target(
            Aiming(towards=named, with_column=target["with"], cluster_by=clustered), table, load
        )
    except KdbiasError as error:
        raise KdbiasError(f"{run.out} is measured against {path}, but {error}; {way}") from None
    if aim.inputs != target["fingerprints"]:
        raise KdbiasError(f"{path}, which {run.out} is measured against, has changed since; {way}")
    return aim
