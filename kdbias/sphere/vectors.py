"""What the geometry expects of its vectors."""

import numpy as np

from kdbias.errors import KdbiasError

_ROWS = 8192
_TOLERANCE = 1e-3


def distances(cosines: np.ndarray) -> np.ndarray:
    """Euclidean distances (float64) of unit vectors at these cosines; rounding beyond 1 counts as 1."""
    return np.sqrt(np.maximum(2 - 2 * cosines.astype(np.float64), 0))


def require_unit_rows(x: np.ndarray) -> None:
    """Refuse anything but (n, d) float32 rows of length one; the message names offending rows.

    Raises:
        KdbiasError: another shape or dtype, no rows, or rows with NaN or inf or of another length.
    """
    if x.ndim != 2 or x.dtype != np.float32 or not len(x):
        raise KdbiasError(f"(n, d) float32 unit vectors are needed, got {x.dtype} of shape {x.shape}")
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        squares = np.einsum("nd,nd->n", rows, rows)
        bad = np.flatnonzero(~(np.abs(squares - 1) <= 2 * _TOLERANCE))
        if len(bad):
            lengths = ", ".join(f"{np.sqrt(s):.4g}" for s in squares[bad[:3]])
            raise KdbiasError(
                f"vectors {', '.join(str(start + b) for b in bad[:3])} are not of length 1 (lengths: "
                f"{lengths}); normalise them, and remove those that are zero or not finite"
            )
