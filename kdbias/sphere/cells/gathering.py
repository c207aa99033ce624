"""What a wave of samples gathers: the cells that they look into, and candidates for their neighbours."""

from collections.abc import Iterator

import numpy as np

from kdbias.sphere.reservoirs import Reservoirs, pack

_HANDED_OVER = 1 << 14  # candidates


class Entries:
    """Which of some rows look into which of ``count`` cells; ``size`` looks."""

    def __init__(self, count: int) -> None:
        self.count, self.size = count, 0
        self._rows: list[np.ndarray] = [np.empty(0, np.int32)]
        self._cells: list[np.ndarray] = [np.empty(0, np.min_scalar_type(count))]

    def add(self, start: int, looks: np.ndarray, but: np.ndarray) -> None:
        """A block of rows that begins at ``start``: looks (r, count) bool, but not into cells (r, any)."""
        looks[np.arange(len(looks))[:, None], but] = False
        places, cells = np.divmod(np.flatnonzero(looks), self.count)
        self._rows.append((places + start).astype(np.int32))
        self._cells.append(cells.astype(self._cells[0].dtype))
        self.size += len(cells)

    def each(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every cell that is looked into, and the places of the rows that do."""
        cells = np.concatenate(self._cells)
        order = np.argsort(cells, kind="stable")  # small integers are sorted by radix
        rows, cells = np.concatenate(self._rows)[order], cells[order]
        starts = np.searchsorted(cells, np.arange(self.count + 1))
        for cell in np.flatnonzero(np.diff(starts)):
            yield int(cell), rows[starts[cell] : starts[cell + 1]]


class Candidates:
    """Candidates for the k neighbours of r rows among n samples, offered many at a time: a call is dear."""

    def __init__(self, r: int, k: int, n: int) -> None:
        self.reservoirs, self._rows = Reservoirs(r, k, n), np.arange(r)
        self._places: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._count = 0

    def add(self, places: np.ndarray, ids: np.ndarray, cosines: np.ndarray, flat: np.ndarray) -> None:
        """Samples ``ids`` (c,) as candidates of rows at ``places`` (r,), where ``flat`` says in (r, c)."""
        across, down = np.divmod(flat, len(ids))
        self._places.append(places[across])
        self._keys.append(pack(cosines.reshape(-1)[flat], ids[down]))
        self._count += len(flat)
        if self._count >= _HANDED_OVER:
            self.hand_over()

    def hand_over(self) -> None:
        """Offer what has gathered to the reservoirs."""
        if self._count:
            self.reservoirs.offer_keys(self._rows, np.concatenate(self._places), np.concatenate(self._keys))
        self._places, self._keys, self._count = [], [], 0

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(r, k) int64 ids and float32 cosines, nearest first."""
        self.hand_over()
        return self.reservoirs.best()
