"""Draw training samples as a weight manifest says: any size, any number of ranks, resumable anywhere.

A sampler slices its order by itself. Whatever slices what it is given (a foreign `DistributedSampler`,
Accelerate's `BatchSamplerShard` or its dispatcher) would slice a second time, and most of an epoch would
never be drawn: to those the sampler gives the whole order. They are found among the callers, since nothing
else tells a sampler that it is wrapped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import distributed
from torch.utils.data import DistributedSampler, Sampler, WeightedRandomSampler

from kdbias.device import rank_and_world
from kdbias.errors import KdbiasError
from kdbias.progress import say
from kdbias.sampler.epoch_order import EpochOrder, check_counts, check_mode
from kdbias.sampler.matching import rows_of
from kdbias.tables import fingerprints
from kdbias.tables.joins import as_strings
from kdbias.tables.weight_manifest import read_manifest, validate_weights

Place = tuple[int, int]
ALONE: Place = (0, 1)

# What hands batches out to processes without being a sampler: Accelerate's, and transformers' of old.
_HANDING_OUT = {"DataLoaderDispatcher", "IterableDatasetShard"}


class Epochs(DistributedSampler[Any]):
    """Where a draw stands: epoch and position, kept by every sampler here in the same way.

    epoch      number of the pass
    position   draws of this epoch that all ranks together have taken
    rank, world_size   the share of the pass at hand; looked up anew by each, unless given

    A `DistributedSampler` in name alone: so trainers (Lightning, Ray) know a sampler that slices by itself,
    which they neither wrap nor replace.
    """

    epoch = 0
    position = 0
    num_draws: int
    world_size: int
    _given: Place | None
    _kept: tuple[int, Any] | None = None
    _begun = False
    _wrapped = False
    _told = False

    def set_epoch(self, epoch: int) -> None:
        """Start `epoch` (>= 0) with the next pass; a position just loaded for that same epoch is kept."""
        if epoch != self.epoch or self._begun:
            self.epoch, self.position = epoch, 0
        self._begun = False

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """Where the draw stands, in plain values.

        `position` is the number of draws of this epoch that all ranks together have used up. Give it within
        an epoch where a DataLoader with workers fetches ahead: the sampler only knows what it handed out.
        Leave it out at the end of an epoch, where a DataLoader with `drop_last` has used fewer than there
        are: a state that has some left continues with these few.
        """
        return {
            "epoch": self.epoch,
            "position": min(self.position if position is None else position, self.num_draws),
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a state, with the same or another world size; refuses one of another draw by key."""
        own = self._identity()
        differing = [f"{k}: {state.get(k)!r} -> {v!r}" for k, v in own.items() if state.get(k) != v]
        if differing:
            raise KdbiasError(f"the sampler's state belongs to another draw ({'; '.join(differing)})")
        self.epoch, self.position, self._begun = int(state["epoch"]), int(state["position"]), False
        if self.num_draws - self.position < self._smallest_step():
            self.epoch, self.position = self.epoch + 1, 0

    def drawn(self, epoch: int, position: int | None = None) -> dict[str, float]:
        """What an epoch really drew up to `position` (default: all of it), counted.

        Returns unique_fraction (distinct samples / samples of positive weight) and ess_fraction (Kish
        effective sample size of the counts / the same).
        """
        counts, candidates = self._counts(epoch, position)
        # Casts block by block: at 10^8 rows a copy as float64 would be most of the memory.
        squares = float(np.einsum("i,i->", counts, counts, dtype=np.float64, casting="unsafe"))
        ess = float(counts.sum(dtype=np.float64)) ** 2 / squares if squares else 0.0
        return {
            "unique_fraction": float(np.count_nonzero(counts)) / candidates,
            "ess_fraction": ess / candidates,
        }

    def _begin(self) -> None:
        # A pass that is begun again without set_epoch, be the last one finished or abandoned, is the next
        # epoch: repeating the same first batches for ever would be a silent catastrophe.
        if self._begun:
            self.epoch, self.position = self.epoch + 1, 0
        self._begun = True
        self._settle()
        if self._given is None and self.world_size > 1 and not in_group():
            raise KdbiasError(
                f"RANK={self.rank} and WORLD_SIZE={self.world_size} announce processes that are in no group: "
                "call torch.distributed.init_process_group() before the first batch, or give the sampler "
                "rank and world_size (0 and 1 where each process shall draw all)"
            )
        if self._given == ALONE and not self._told and find_slicer() is None and usual_place()[1] > 1:
            self._told = True
            say(
                f"{type(self).__name__}(rank=0, world_size=1): each process draws the whole epoch; leave "
                "both out to share it"
            )

    def find_place(self) -> Place:
        """(rank, world size) for whoever asks now; refuses a world size that cannot share the draws."""
        slicer = find_slicer()
        # What wraps a sampler asks how long it is, and may let others fetch what it then hands out.
        self._wrapped = self._wrapped or isinstance(slicer, DistributedSampler)
        rank, world_size = ALONE if self._wrapped or slicer is not None else self._given or usual_place()
        self._require_shares(world_size)
        return rank, world_size

    def _settle(self) -> None:
        self.rank, self.world_size = self.find_place()
        self.num_replicas = self.world_size  # as DistributedSampler calls it

    def order(self, epoch: int | None = None) -> Any:
        """The order of an epoch (default: the current one), all ranks together; the last one is kept.

        An `EpochOrder`; for identities (batches, identities, instances) int64 positions of the data set.
        """
        epoch = self.epoch if epoch is None else epoch
        if self._kept is None or self._kept[0] != epoch:
            self._kept = None  # frees it before the next is built
            self._kept = epoch, self._draw(epoch)
        return self._kept[1]

    def _draw(self, epoch: int) -> Any:
        """What `order` gives, made anew."""
        raise NotImplementedError

    def _require_shares(self, world_size: int) -> None:
        """Raises KdbiasError where so many processes cannot share the draws."""
        raise NotImplementedError

    def _after(self, taken: int) -> int:
        return min(self.position + taken * self.world_size, self.num_draws)

    def _smallest_step(self) -> int:
        """Draws below which nothing can be given out any more."""
        raise NotImplementedError

    def _identity(self) -> dict[str, Any]:
        """What a state must agree with to be continued."""
        raise NotImplementedError

    def _counts(self, epoch: int, position: int | None) -> tuple[np.ndarray, int]:
        """(how often each sample was drawn, samples that can be drawn)."""
        raise NotImplementedError


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

    Raises KdbiasError for weights that are negative, not finite or all zero; a pass where RANK and WORLD_SIZE
    announce processes that are in no group.
    """

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
    ) -> None:
        check_mode(mode)
        array = validate_weights(np.asarray(weights, dtype=np.float64))
        draws = len(array) if num_samples is None else num_samples
        self._given = given_place(rank, world_size)
        check_counts(0, seed=seed, num_samples=num_samples)
        self.num_draws, self.mode, self.seed, self.drop_last = draws, mode, seed, drop_last
        self._array = array
        self._fingerprint: str | None = None
        self._settle()
        shown = torch.from_numpy(array)
        WeightedRandomSampler.__init__(self, shown, max(1, len(self)), replacement=True)  # type: ignore[arg-type]

    @classmethod
    def from_manifest(
        cls,
        manifest: str | os.PathLike[str],
        sample_ids: Sequence[str] | pa.Array,
        *,
        root: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> ManifestSampler:
        """Sampler over a data set whose positions hold `sample_ids`, weighted by the manifest, joined by id.

        `sample_ids` is a list, a NumPy array, a pandas Series or an Arrow array, in the data set's order:
        the manifest's ids, or the paths of `ImageFolder.samples` and the like. Where the one are relative
        and the others not, the folder between them is `root`, or found and said if exactly one will do.
        Samples that the manifest does not list are never drawn. An epoch has as many draws as it has rows,
        unless `num_samples` is given. Raises KdbiasError where an id is missing or more than one folder fits.
        """
        table = read_manifest(manifest)
        rows = rows_of(table.ids, as_strings(sample_ids), f"the weights {manifest}", root)
        weights = np.zeros(len(sample_ids))
        weights[rows] = table.weights
        return cls(weights, options.pop("num_samples", None) or table.n, **options)

    def _draw(self, epoch: int) -> EpochOrder:
        return EpochOrder(self._array, self.num_draws, mode=self.mode, seed=self.seed, epoch=epoch)

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
        }


def given_place(rank: int | None, world_size: int | None) -> Place | None:
    """(rank, world size) as the user gave them, None where neither was given."""
    if (rank is None) != (world_size is None):
        raise KdbiasError(f"rank={rank}, world_size={world_size}: give both or neither")
    if rank is None or world_size is None:
        return None
    check_counts(0, rank=rank, world_size=world_size)
    if not rank < world_size:
        raise KdbiasError(f"rank {rank} is not one of 0 .. {world_size - 1}")
    return rank, world_size


def usual_place() -> Place:
    """(rank, world size) of torch.distributed, else as RANK and WORLD_SIZE announce them, else 0 of 1."""
    if in_group():
        return distributed.get_rank(), distributed.get_world_size()
    return rank_and_world() if "RANK" in os.environ else ALONE


def in_group() -> bool:
    """Whether this process is one of a group of torch.distributed."""
    return distributed.is_available() and distributed.is_initialized()


def find_slicer() -> Any:
    """The caller, however far out, that gives each of several processes its part of what it gets; or None."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",) and _slices(caller := frame.f_locals.get("self")):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _slices(caller: Any) -> bool:
    """Whether the caller deals batches out to several processes."""
    if isinstance(caller, Sampler):
        if hasattr(caller, "find_place"):  # one of ours
            return False
    elif not _HANDING_OUT & {kind.__name__ for kind in type(caller).__mro__}:
        return False
    counts = [getattr(caller, name, None) for name in ("num_replicas", "num_processes", "world_size")]
    counts.append(getattr(getattr(caller, "state", None), "num_processes", 1))
    return next(count for count in counts if isinstance(count, int)) > 1
