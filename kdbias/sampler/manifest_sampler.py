"""Draw training samples as a weight manifest says: any size, any number of ranks, resumable anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler

from kdbias.errors import KdbiasError
from kdbias.sampler.data_ids import weights_of
from kdbias.sampler.epoch_order import EpochOrder, Order, check_counts, check_mode
from kdbias.sampler.epochs import Epochs
from kdbias.sampler.machine_memory import Held, in_own_memory
from kdbias.sampler.matching import joined
from kdbias.sampler.places import given_place
from kdbias.sampler.sharded_order import ShardedOrder, Shards
from kdbias.tables import fingerprints
from kdbias.tables.weight_manifest import never_drawn, validate_weights


class ManifestSampler(Epochs, WeightedRandomSampler):
    """A `WeightedRandomSampler` whose order is a pure function of (weights, mode, seed, epoch).

    Every rank computes its slice rank::world_size of one global order, so ranks never overlap by accident and
    the number of workers or ranks changes nothing. Give it to a DataLoader as `sampler`; each pass over it is
    the next epoch, `set_epoch` chooses one.

    weights      (n,) one number >= 0 for each position of the data set; zero = never drawn
    num_samples  draws an epoch, all ranks together; default n (use `from_manifest` for weights by id)
    mode         "systematic" (default): each sample floor or ceil of its expected count in each epoch, equal
                 weights give one shuffled pass; "iid": draws with replacement, as WeightedRandomSampler does
    seed         >= 0; the same on every rank
    rank, world_size  default: those of torch.distributed when a pass begins; 0 of 1 without a group, and
                 where a wrapper hands the draws out to the processes (see above)
    drop_last    True (default): every rank draws equally often, at most world_size - 1 draws of an epoch are
                 left out; False: all draws are given out, and ranks may differ by one
    shared_memory  weights and the order of an epoch lie once in the memory of a machine for all its processes
                 (8 bytes a weight, 4 a draw), which the first of them fills; default: where several processes
                 draw epochs of 4 million and more
    shards       (n,) integers: which tar, row group, folder ... each position lies in. Where they are given,
                 a process draws from 16 shards at a time, each of which it opens once an epoch: for data too
                 large to be read at random. Each sample is drawn as often as without; only the order is local
                 (`neighbourhood`), and depends on the number of processes

    Raises KdbiasError for weights that are negative, not finite or all zero; shards that are not one number
    for each weight; a pass where RANK and WORLD_SIZE announce processes that are in no group.
    """

    _weights_are_shared = False

    def __init__(
        self,
        weights: np.ndarray | torch.Tensor,
        num_samples: int | None = None,
        *,
        mode: str = "systematic",
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = True,
        shared_memory: bool | None = None,
        shards: Sequence[int] | np.ndarray | Shards | None = None,
    ) -> None:
        check_mode(mode)
        array = validate_weights(weights_of(weights))
        draws = len(array) if num_samples is None else num_samples
        self._given = given_place(rank, world_size)
        check_counts(0, seed=seed, num_samples=num_samples)
        self.num_draws, self.mode, self.seed, self.drop_last = draws, mode, seed, drop_last
        self._array, self._shared = array, shared_memory
        if shards is not None and not isinstance(shards, Shards):
            shards = Shards(shards, len(array))
        self._shards = shards
        # (first position, processes) of the stretches of an epoch that is drawn shard by shard.
        self._stretches: dict[int, list[tuple[int, int]]] = {}
        self._fingerprint: str | None = None
        self._settle()
        shown = torch.from_numpy(array)
        WeightedRandomSampler.__init__(self, shown, max(1, len(self)), replacement=True)  # type: ignore[arg-type]

    @classmethod
    def from_manifest(
        cls,
        manifest: str | os.PathLike[str],
        sample_ids: Any,
        *,
        root: str | os.PathLike[str] | None = None,
        subset: bool = False,
        **options: Any,
    ) -> ManifestSampler:
        """Sampler over a data set whose positions hold `sample_ids`, weighted by the manifest, joined by id.

        `sample_ids` are the manifest's ids or paths, in the data set's order: a list, a NumPy, pandas or
        Arrow column, an `ImageFolder` or its `.samples`. The folder that only one side's paths begin with is
        `root`, or found and said if only one will do. Samples that the manifest lacks are never drawn, which
        is said; ids that the data lack are refused, or left out with `subset`. An epoch has a draw for each
        row of the manifest that is there, unless `num_samples` is given. Raises KdbiasError where an id is
        missing or more than one folder fits.
        """
        found = joined(manifest, sample_ids, root, subset)
        return cls(found.weights, options.pop("num_samples", None) or found.draws, **options)

    def __repr__(self) -> str:
        never = never_drawn(self._array)
        drawn = f"{self.num_draws:,} draws an epoch of {len(self._array):,} samples, {never:,} of them never"
        return f"<ManifestSampler: {drawn}; {self.mode}, seed {self.seed}, epoch {self.epoch}>"

    def _draw(self, epoch: int) -> Order:
        identity = self._identity()
        if self._shares():
            self._share_weights(identity["weights"])
        if self._shards is None:
            return self._unsharded(epoch, self._held(identity, epoch))
        rows = len(self._array)

        def fill(memory: np.ndarray) -> None:
            memory[:] = 0
            self._unsharded(epoch, in_own_memory).add_all(memory.view(np.uint32))

        counts = self._held(identity, epoch, "counts")(4 * rows, fill).view(np.uint32)
        (_, lanes), *later = self._parts(epoch)
        order = ShardedOrder(counts, self._shards, lanes, (self.seed, epoch))
        for begin, lanes in later:
            order = order.gone_on(begin, lanes)
        return order

    def _unsharded(self, epoch: int, held: Held) -> EpochOrder:
        return EpochOrder(self._array, self.num_draws, mode=self.mode, seed=self.seed, epoch=epoch, held=held)

    def _parts(self, epoch: int) -> tuple[tuple[int, int], ...]:
        if self._shards is None:
            return ()
        return tuple(self._stretches.get(epoch, [(0, self.world_size)]))

    @property
    def neighbourhood(self) -> int:
        """Draws among which a process's next one is picked: all of an epoch, or of the shards at hand."""
        if self._shards is None:
            return self.num_draws
        return self._shards.neighbourhood(self.num_draws, self.world_size)

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        state = super().state_dict(position)
        return state if self._shards is None else {**state, "stretches": list(self._parts(self.epoch))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self._shards is not None:
            self._stretches = {int(state["epoch"]): [(int(a), int(b)) for a, b in state["stretches"]]}

    def _begin(self) -> None:
        super()._begin()
        stretches = self._stretches.get(self.epoch)
        if not self.position or not stretches:
            self._stretches = {self.epoch: [(0, self.world_size)]}
        elif stretches[-1][1] != self.world_size:
            stretches.append((self.position, self.world_size))

    def _share_weights(self, digest: str) -> None:
        """Put what all processes of the machine share in the place of this one's weights."""
        own = self._array
        if self._weights_are_shared or not own.flags.writeable:  # such are a map of the caller's
            return
        self._weights_are_shared = True
        memory = self._held("weights", digest)(
            own.nbytes, lambda memory: np.copyto(memory, own.view(np.uint8))
        )
        self._array = memory.view(own.dtype)
        self.weights = torch.from_numpy(self._array)

    def blocks(self, size: int = 8192) -> Iterator[np.ndarray]:
        """The rest of this rank's epoch: int64 arrays of `size` positions of the data set (the last: fewer).

        `position` moves on with each array that is taken.
        """
        self._begin()
        for block in self._remaining(size):
            self.position = self._after(len(block))
            yield block

    def __iter__(self) -> Iterator[int]:
        self._begin()
        position = self.position
        for block in self._remaining(8192):
            for index in block.tolist():
                position += self.world_size
                self.position = position
                yield index

    def __len__(self) -> int:
        """Draws of this rank in a whole epoch."""
        return self._share(0, *self.find_place())

    def steps(self, batch_size: int) -> int:
        """Batches of `batch_size` that `batches` gives this rank in an epoch."""
        full, rest = divmod(len(self), batch_size)
        return full + (rest > 1 or (rest == 1 and full == 0 and batch_size > 1))

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """`blocks`, less a last one of a single row: batch norm has no variance to take from it."""
        for block in self.blocks(batch_size):
            if len(block) > 1 or len(self) == 1 or batch_size == 1:
                yield block

    def _remaining(self, size: int) -> Iterator[np.ndarray]:
        start, stop = self.position, self.num_draws
        if self.drop_last:
            stop = start + self._share(start, self.rank, self.world_size) * self.world_size
        return self.order().blocks(start + self.rank, stop, self.world_size, size)

    def _share(self, position: int, rank: int, world_size: int) -> int:
        left = self.num_draws - position
        return left // world_size if self.drop_last else max(0, -(-(left - rank) // world_size))

    def _require_shares(self, world_size: int) -> None:
        if self.num_draws < world_size:
            raise KdbiasError(f"{self.num_draws} draws an epoch cannot be shared by {world_size} ranks")

    def _smallest_step(self) -> int:
        return self.world_size if self.drop_last else 1

    def _counts(self, epoch: int, position: int | None) -> tuple[np.ndarray, int]:
        return self.order(epoch).counts(len(self._array), position), int(np.count_nonzero(self._array))

    def _identity(self) -> dict[str, Any]:
        if self._fingerprint is None:
            self._fingerprint = fingerprints.of_arrays(self._array)
        return {
            "seed": self.seed,
            "mode": self.mode,
            "num_draws": self.num_draws,
            "weights": self._fingerprint,
            "shards": None if self._shards is None else self._shards.fingerprint,
        }
