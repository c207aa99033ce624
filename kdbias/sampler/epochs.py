"""Where a draw stands, in the way that every sampler here keeps it: epoch, position, share of a process."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import DistributedSampler

from kdbias.errors import KdbiasError
from kdbias.progress import say
from kdbias.sampler.machine_memory import Held, in_machine_memory, in_own_memory
from kdbias.sampler.places import ALONE, Place, find_slicer, in_group, usual_place
from kdbias.tables import fingerprints

# Epochs of this many draws are worth a file of their own.
_SHARED_FROM = 1 << 22
_FORM = "order 1"  # to be raised with whatever changes an order


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
    _shared: bool | None = None
    _kept: tuple[Any, Any] | None = None
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

        An `epoch_order.Order`; for identities (batches, identities, instances) int64 positions of the data
        set.
        """
        epoch = self.epoch if epoch is None else epoch
        key = epoch, self._parts(epoch)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # frees it before the next is built
            self._kept = key, self._draw(epoch)
        return self._kept[1]

    def _parts(self, epoch: int) -> Any:
        """What the order of an epoch depends on beside its number."""
        return None

    def _draw(self, epoch: int) -> Any:
        """What `order` gives, made anew."""
        raise NotImplementedError

    def _shares(self) -> bool:
        """Whether what takes memory is kept once for all processes of a machine."""
        if self._shared is not None:
            return self._shared
        processes = max((self._given or ALONE)[1], usual_place()[1])
        return processes > 1 and os.environ.get("LOCAL_WORLD_SIZE") != "1" and self.num_draws >= _SHARED_FROM

    def _held(self, *names: Any) -> Held:
        """Memory for what these names (plain values) decide alone."""
        if not self._shares():
            return in_own_memory
        return partial(in_machine_memory, fingerprints.of_json([_FORM, type(self).__name__, *names]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # made anew, rather than copied

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
