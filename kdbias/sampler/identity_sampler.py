"""P x K batches for re-identification: P identities, K images of each, as often as a weight manifest says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.sampler.data_ids import weights_of
from kdbias.sampler.epoch_order import Mixed, check_counts, systematic_ticks
from kdbias.sampler.epochs import Epochs
from kdbias.sampler.matching import joined
from kdbias.sampler.places import given_place
from kdbias.tables import fingerprints
from kdbias.tables.joins import encode
from kdbias.tables.weight_manifest import validate_weights
from kdbias.wording import counted

_TRADES = 6


class IdentitySampler(Epochs):
    """A batch sampler: each batch holds `identities` different labels and `instances` images of each.

    An identity is visited in proportion to the sum of its samples' weights (floor or ceil of that in every
    epoch, and at most once a batch), an image within its identity in proportion to its weight. So as far as
    no identity is due more often than there are batches, the expected number of draws of every image is that
    of `ManifestSampler`. Images repeat within a visit only where weights or too few images force it. The
    order is a pure function of (weights, labels, seed, epoch). Give it to a DataLoader as `batch_sampler`.

    weights      (n,) >= 0; labels (n,) strings or integers, null = never drawn
    num_samples  draws an epoch, all ranks together, rounded down to whole batches; default n
    rank, world_size  each rank gets its share of the identities of every batch; defaults as `ManifestSampler`

    Raises KdbiasError for bad weights, fewer identities than a batch needs, or P that the ranks cannot share.
    """

    def __init__(
        self,
        weights: np.ndarray,
        labels: pa.Array | Sequence[Any] | np.ndarray,
        *,
        identities: int,
        instances: int,
        num_samples: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        check_counts(0, seed=seed, num_samples=num_samples, identities=identities, instances=instances)
        array = validate_weights(weights_of(weights))
        values = labels if isinstance(labels, pa.Array | pa.ChunkedArray) else pa.array(labels)
        codes, _ = encode(values)
        if len(codes) != len(array):
            raise KdbiasError(
                f"{counted(len(array), 'weight')}, but {counted(len(codes), 'label')}; each sample needs both"
            )
        self._given = given_place(rank, world_size)
        self.identities, self.instances, self.seed = identities, instances, seed
        self._n = len(array)
        self._rows = np.flatnonzero((array > 0) & (codes >= 0))
        self._weights = array[self._rows]
        names, self._codes = np.unique(codes[self._rows], return_inverse=True)
        if identities < 1 or instances < 1 or len(names) < identities:
            raise KdbiasError(
                f"batches of {identities} identities x {instances} images cannot be drawn from "
                f"{counted(len(names), 'identity')} of positive weight"
            )
        self._settle()
        self.num_batches = max(1, (num_samples or self._n) // self.batch_size)
        self.num_draws = self.num_batches * self.batch_size
        self._mass = np.bincount(self._codes, self._weights)
        self._visits = _capped(self._mass, self.num_batches, identities)
        self._fingerprint = fingerprints.of_arrays(array, codes)

    @classmethod
    def from_manifest(
        cls,
        manifest: str | os.PathLike[str],
        sample_ids: Any,
        labels: pa.Array | Sequence[Any] | np.ndarray | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        subset: bool = False,
        **options: Any,
    ) -> IdentitySampler:
        """Sampler over a data set whose positions hold `sample_ids`, as `ManifestSampler.from_manifest`.

        `labels` (n,) are those of the positions; default: the manifest's. `options` are the others of this
        class. Raises KdbiasError where an id is missing, or no sample has a label.
        """
        found = joined(manifest, sample_ids, root, subset)
        labels = found.labels if labels is None else labels
        if isinstance(labels, pa.Array) and labels.null_count == len(labels):
            raise KdbiasError(f"the weights {manifest} have no labels; give labels=, one a sample")
        options["num_samples"] = options.get("num_samples") or found.draws
        return cls(found.weights, labels, **options)

    def __repr__(self) -> str:
        return (
            f"<IdentitySampler: {self.num_batches:,} batches an epoch of {self.identities} identities x "
            f"{self.instances} images, from {len(self._mass):,} identities and {len(self._rows):,} of "
            f"{self._n:,} samples; seed {self.seed}, epoch {self.epoch}>"
        )

    @property
    def batch_size(self) -> int:
        """Images of a batch, all ranks together."""
        return self.identities * self.instances

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        for block in self._rest():
            yield block.tolist()

    def steps(self, batch_size: int) -> int:
        """Batches an epoch; `batch_size` is this rank's, and must be identities * instances / world_size."""
        if batch_size * self.world_size != self.batch_size:
            raise KdbiasError(
                f"{self.identities} identities x {self.instances} images are {self.batch_size} a batch, "
                f"not {batch_size * self.world_size}"
            )
        return self.num_batches

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """The rest of this rank's epoch: int64 arrays of `batch_size` positions, identity by identity."""
        self.steps(batch_size)
        yield from self._rest()

    def _rest(self) -> Iterator[np.ndarray]:
        self._begin()
        for batch in self.order()[self.position // self.batch_size :, self.rank :: self.world_size]:
            self.position = self._after(batch.size)
            yield batch.ravel()

    def _draw(self, epoch: int) -> np.ndarray:
        shape = self.num_batches, self.identities, self.instances

        def fill(memory: np.ndarray) -> None:
            memory.view(np.int64).reshape(shape)[:] = self._drawn(epoch)

        memory = self._held(self._identity(), epoch)(8 * self.num_draws, fill)
        return memory.view(np.int64).reshape(shape)

    def _drawn(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        slots = self.num_batches * self.identities
        shuffled = rng.permutation(len(self._visits))
        ticks = np.empty(slots, np.int64)
        systematic_ticks(Mixed(self._visits[shuffled]), ticks, rng)
        visits = np.zeros(len(shuffled), np.int64)
        visits[shuffled] = np.bincount(ticks, minlength=len(shuffled))
        # Samples grouped by identity in the order of its visits, in random order within it.
        place_of = np.empty(len(shuffled), np.int64)
        place_of[shuffled] = np.arange(len(shuffled))
        by_identity = np.lexsort((rng.random(len(self._codes)), place_of[self._codes]))
        images = self._images(by_identity, visits, rng)
        # Visits of one identity are consecutive; dealt out in turn they fall into different batches.
        dealt = np.arange(slots).reshape(self.identities, self.num_batches).T.copy()
        _trade(dealt, np.repeat(shuffled, visits[shuffled]), rng)
        return images[dealt]

    def _images(self, by_identity: np.ndarray, visits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(slots, instances) rows: systematic draws within each identity, dealt out to its visits in turn."""
        codes = self._codes[by_identity]
        wanted = visits * self.instances
        last = np.flatnonzero(np.diff(codes, append=-1))
        first = np.r_[0, last[:-1] + 1]
        reach = np.cumsum(self._weights[by_identity] * (wanted / self._mass)[codes])
        reach -= np.repeat(np.r_[0.0, reach[last[:-1]]], last - first + 1)
        reach[last] = wanted[codes[last]]
        hit = np.ceil(reach - rng.random(len(self._mass))[codes]).clip(0, wanted[codes]).astype(np.int64)
        counts = np.diff(hit, prepend=0)
        counts[first] = hit[first]
        drawn = np.repeat(self._rows[by_identity], counts)
        # Draw j of an identity with v visits goes to its visit j mod v, as image j div v.
        v = np.repeat(visits[codes[first]], wanted[codes[first]])
        begin = np.repeat(np.r_[0, np.cumsum(wanted[codes[first]])[:-1]], wanted[codes[first]])
        j = np.arange(len(drawn)) - begin
        out = np.empty((len(drawn) // self.instances, self.instances), np.int64)
        out[begin // self.instances + j % np.maximum(v, 1), j // np.maximum(v, 1)] = drawn
        return out

    def _smallest_step(self) -> int:
        return self.batch_size

    def _require_shares(self, world_size: int) -> None:
        if self.identities % world_size:
            raise KdbiasError(f"{self.identities} identities a batch cannot be shared by {world_size} ranks")

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "identities": self.identities,
            "instances": self.instances,
            "num_draws": self.num_draws,
            "weights": self._fingerprint,
        }

    def _counts(self, epoch: int, position: int | None) -> tuple[np.ndarray, int]:
        batches = self.num_batches if position is None else position // self.batch_size
        return np.bincount(self.order(epoch)[:batches].ravel(), minlength=self._n), len(self._rows)


def _trade(batches: np.ndarray, owners: np.ndarray, rng: np.random.Generator) -> None:
    """Mix visits between batches, in place, so that identities meet by chance; none comes twice in one.

    batches  (b, p) numbers of the visits of each batch; owners (b * p,) the identity of each visit

    Batches dealt out in turn repeat the same few groups of identities. So batches meet in random pairs, put
    what only one of the two has into one pool and take their numbers of it back at random: the curveball
    algorithm (Strona et al. 2014), which makes all ways of dealing that keep the rule equally likely. A visit
    stays where it was dealt with probability 2^-rounds.
    """
    half, size = len(batches) // 2, batches.shape[1]
    for _ in range(_TRADES):
        order = rng.permutation(len(batches))
        one, other = order[:half], order[half : 2 * half]
        pool = np.concatenate([batches[one], batches[other]], axis=1)
        names = owners[pool]
        by_name = names.argsort(axis=1, kind="stable")
        names = np.take_along_axis(names, by_name, axis=1)
        pair, at = np.nonzero(names[:, 1:] == names[:, :-1])
        keys = rng.random(pool.shape)
        keys[pair, by_name[pair, at]] = -1.0  # an identity that both have stays in both
        keys[pair, by_name[pair, at + 1]] = 2.0
        pool = np.take_along_axis(pool, keys.argsort(axis=1, kind="stable"), axis=1)
        batches[one], batches[other] = pool[:, :size], pool[:, size:]


def _capped(mass: np.ndarray, batches: int, identities: int) -> np.ndarray:
    """Expected visits in proportion to `mass`, none above `batches`; what is cut off goes to the others."""
    visits = mass * (batches * identities / mass.sum())
    full = np.zeros(len(mass), bool)
    while (over := (visits > batches) & ~full).any():
        full |= over
        left = batches * (identities - int(full.sum()))
        visits = np.where(full, float(batches), mass * (left / mass[~full].sum() if left else 0.0))
    return visits
