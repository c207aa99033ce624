"""The state of a long pass on disk, so that a killed one goes on where it was."""

import os
import time
from pathlib import Path

import numpy as np

from kdbias.tables import fingerprints
from kdbias.tables.files import atomic_path


class Snapshots:
    """Saves what the epilogues of a traversal have gathered, now and then.

    Args:
        path: the file; it stays when the pass is over, until its results are safe elsewhere.
        key: what is computed from what. A file with another key is ignored, and overwritten later.
        every: seconds between snapshots.
    """

    def __init__(self, path: str | os.PathLike[str], key: str, every: float = 300.0) -> None:
        self.path, self.key, self.every = Path(path), key, every
        self._saved_at = time.monotonic()

    def load(self) -> tuple[int, list[dict[str, np.ndarray]]] | None:
        """Tiles done and the state of each epilogue, or None where there is nothing to go on from."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                if str(file["key"]) != self.key:
                    return None
                states: list[dict[str, np.ndarray]] = [{} for _ in range(int(file["epilogues"]))]
                for name in file.files:
                    place, _, field = name.partition(":")
                    if field:
                        states[int(place)][field] = file[name]
                done = int(file["done"])
                return (done, states) if str(file["digest"]) == _digest(done, states) else None
        except MemoryError:
            raise
        except Exception:  # none yet, or a damaged one, of which NumPy raises what its bytes lead to
            return None

    def due(self) -> bool:
        """Whether the last snapshot is `every` seconds old."""
        return time.monotonic() - self._saved_at >= self.every

    def save(self, done: int, states: list[dict[str, np.ndarray]]) -> None:
        """Write a snapshot, whole or not at all."""
        arrays = {f"{i}:{field}": value for i, state in enumerate(states) for field, value in state.items()}
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            head = {"key": self.key, "done": done, "epilogues": len(states), "digest": _digest(done, states)}
            np.savez(file, **head, **arrays)  # type: ignore[arg-type]
        self._saved_at = time.monotonic()


def _digest(done: int, states: list[dict[str, np.ndarray]]) -> str:
    """Of all of a snapshot: a ZIP archive checks its members, but not that none is missing."""
    values = [fingerprints.of_arrays(*map(np.asarray, (s[name] for name in sorted(s)))) for s in states]
    return fingerprints.of_json([done, [sorted(state) for state in states], values])
