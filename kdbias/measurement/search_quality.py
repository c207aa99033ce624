"""What an approximate search is worth: from which errors on it is refused, and what later passes add."""

from collections.abc import Sequence
from typing import Any

from kdbias import progress
from kdbias.errors import KdbiasError

# Beyond these an approximate search is refused (hnsw: warned about). Natural sampling's potentials at the
# chosen bandwidth and k-th distances rank samples by density, so their ranks are held against exact ones;
# recall alone says little. Another scheme's potentials rank nothing, and an equilibrium's are all alike, so
# that their ranks are noise however good the estimate is: of these the relative error counts.
LEAST_SPEARMAN = 0.99
LEAST_KNN_SPEARMAN = 0.95
LARGEST_SCHEME_ERROR = 0.05  # root mean square
# What `search` holds a row a scheme of (folders of earlier versions: far_model, too).
OF_SCHEMES = ("rms_relative_error", "largest_relative_error", "far_model", "spearman")


def require_quality(search: dict[str, Any], schemes: Sequence[str], chosen: int) -> None:
    """Refuse an approximate search that was too coarse; where a graph found the neighbours, warn.

    Args:
        search: the entry ``search`` of a pass.
        schemes: names of its schemes.
        chosen: index of the bandwidth of ``log_density``.

    Raises:
        KdbiasError: natural sampling's ranks, or another scheme's errors, are beyond what is allowed.
    """
    if search["kind"] == "exact":
        return
    faults = []
    for name, ranks, errors in zip(schemes, search["spearman"], search["rms_relative_error"], strict=True):
        rank, error = ranks[chosen], errors[chosen]
        if name == "natural" and rank < LEAST_SPEARMAN:
            faults.append(f"rank correlation of potentials with exact ones {rank:.3f} < {LEAST_SPEARMAN}")
        if name != "natural" and error > LARGEST_SCHEME_ERROR:
            faults.append(
                f"potentials of scheme {name!r} are off by {100 * error:.1f} % (root mean square) > "
                f"{100 * LARGEST_SCHEME_ERROR:g} %"
            )
    distances = search["knn_spearman"]
    if distances is not None and distances < LEAST_KNN_SPEARMAN:
        faults.append(
            f"rank correlation of k-th distances {distances:.3f} < {LEAST_KNN_SPEARMAN} "
            f"(recall {search['recall']:.2f})"
        )
    if not faults:
        return
    message = (
        f"--search {search['kind']} is too coarse for these data: {'; '.join(faults)}; use --search exact"
    )
    if search["kind"] == "hnsw":
        progress.say(f"warning: {message}")
    else:
        raise KdbiasError(message)


def with_quality(search: dict[str, Any], added: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """The entry ``search`` with what a later pass says of its schemes, which stand at ``places`` among all.

    Of an exact pass there is nothing to say. How an estimate was computed remains that of the first pass.
    """
    merged = dict(search)
    for name in set(OF_SCHEMES) & added.keys():
        rows = dict(enumerate(search[name])) | dict(zip(places, added[name], strict=True))
        merged[name] = [rows[place] for place in sorted(rows)]
    return merged
