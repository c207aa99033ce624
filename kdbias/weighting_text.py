"""A weight manifest's numbers as text for a terminal."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbias.weighting import WeightsResult


def manifest_text(result: "WeightsResult") -> str:
    """A manifest's numbers, one a line."""
    numbers, n = result.numbers, result.n
    scheme = result.method + (f" at t={result.t:g}" if result.t is not None else "")
    identities = numbers["effective_identities"]
    copies = f", {n - result.distinct:,} of them copies" if result.distinct < n else ""
    lines = [
        f"{result.path}: {scheme}, {n:,} samples{copies}, mean weight 1",
        f"  effective samples     {numbers['ess']:,.0f} ({numbers['ess_share']:.1%})",
        f"  largest weight        {numbers['max_weight']:.3g}",
        f"  top 1 % of samples    {numbers['top_mass']:.1%} of the draws",
        f"  never drawn           {numbers['zero_weights']:,}",
    ]
    if identities is not None:
        lines.append(f"  effective identities  {identities:,.1f}")
    if result.solver is not None:
        lines += _solver_lines(result.solver)
    return "\n".join(lines + [f"  warning: {line}" for line in result.warnings])


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
        f"  solver                {solver['iterations']:,} iterations in {solver['seconds']:.1f} s, "
        f"lambda {solver['lambda']:.3g}",
    ]
