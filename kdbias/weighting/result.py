"""What `weights` returns, and its numbers as text for a terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbias.wording import counted, visible


@dataclass(frozen=True)
class WeightsResult:
    """A weight manifest on disk and what it costs.

    Attributes:
        path: the manifest.
        method, t: the scheme and its bandwidth (None where it has none).
        n, distinct: samples, and those left when duplicates count once.
        numbers: ess, ess_share, ess_distinct, max_weight, top_mass, zero_weights, effective_identities.
        solver: of the equilibrium: energies, gap, lambda, iterations, how it ended; else None.
        warnings: one line for each number past its line.
        state: "finished" where the file was there already and nothing was done.
    """

    path: Path
    method: str
    t: float | None
    n: int
    distinct: int
    numbers: dict[str, Any]
    solver: dict[str, Any] | None
    facts: dict[str, Any]
    warnings: list[str]
    seconds: float
    state: Literal["new", "finished"]

    def summary(self) -> str:
        """The numbers for people."""
        return manifest_text(self)


def manifest_text(result: WeightsResult) -> str:
    """A manifest's numbers, one a line."""
    numbers, n = result.numbers, result.n
    scheme = result.method + (f" at t={result.t:g}" if result.t is not None else "")
    identities = numbers["effective_identities"]
    copies = f", {n - result.distinct:,} of them copies" if result.distinct < n else ""
    lines = [
        f"{result.path}: {scheme}, {counted(n, 'sample')}{copies}, mean weight 1",
        f"  effective samples     {numbers['ess']:,.0f} ({numbers['ess_share']:.1%})",
        f"  largest weight        {numbers['max_weight']:.3g}",
        f"  top 1 % of samples    {numbers['top_mass']:.1%} of the draws",
        f"  never drawn           {numbers['zero_weights']:,}",
    ]
    if identities is not None:
        lines.append(f"  effective identities  {identities:,.1f}")
    if result.solver is not None:
        lines += _solver_lines(result.solver)
    return "\n".join(map(visible, lines + [f"  warning: {line}" for line in result.warnings]))


def _solver_lines(solver: dict[str, Any]) -> list[str]:
    before, energy, gap = solver["energy_before"], solver["energy"], solver["gap"]
    gain = before - energy
    if gap is None:
        proof = "no certificate: the kernel is approximated"
    elif gain > 0:
        proof = f"at most {gap:.2g} above the best possible ({gap / gain:.2%} of the gain)"
    else:
        proof = f"at most {gap:.2g} above the best possible"
    return [
        f"  energy                {before:.6g} -> {energy:.6g}",
        f"  effective distinct    {1 / before:,.1f} -> {1 / energy:,.1f}",
        f"  certificate           {proof}; {solver['reason']}",
        f"  solver                {counted(solver['iterations'], 'iteration')} in {solver['seconds']:.1f} s, "
        f"lambda {solver['lambda']:.3g}",
    ]
