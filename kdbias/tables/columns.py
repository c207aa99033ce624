"""The names of kdbias's own columns, which no group column may bear in any of its tables."""

from collections.abc import Iterable

from kdbias.errors import KdbiasError

EMBEDDING = ("sample_id", "label", "norm", "norm_flip", "embedding", "embedding_flip")
DENSITY = ("sample_id", "label", "knn_distance", "log_density", "duplicate_of", "near_duplicates")
MANIFEST = ("sample_id", "label", "log_density", "weight")
POTENTIAL = "potential_t"
_OWN = frozenset([*EMBEDDING, *DENSITY, *MANIFEST])


def is_own(name: str) -> bool:
    """Whether one of the tables has a column of this name, or may have (one a bandwidth)."""
    return name in _OWN or name.startswith(POTENTIAL)


def refuse_own(groups: Iterable[str], where: object) -> None:
    """Raise KdbiasError where a group column would be taken for one of kdbias's own, here or further on."""
    taken = [name for name in groups if is_own(name)]
    if taken:
        raise KdbiasError(
            f"{where}: the group column {taken[0]!r} bears the name of a column of kdbias's own tables; "
            f"rename it (kdbias embed keeps such a one as 'data_{taken[0]}')"
        )
