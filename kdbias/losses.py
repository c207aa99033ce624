"""What a student learns from: teacher vectors (`l2e`, `cosine`) or labels (`softmax`, `arcface`).

Every loss is a module called with (embedding, target, label) that returns a scalar, the mean over the batch:

embedding  (b, dim) raw output of the network
target     (b, dim) unit teacher vectors, or None
label      (b,) int64 class numbers 0 .. classes-1, or None

A new loss is a class here with `needs` and a line in `LOSSES`. Class centres are parameters of the loss: give
them to the optimiser with the network's.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbias.errors import KdbiasError

# Distance of a cosine from +-1 below which the gradient of an angle is no longer finite in float32.
_EPS = 1e-6


class Loss(nn.Module):
    """Base of all losses: `needs` says what a batch must bring ("target", "label")."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, dim: int, classes: int | None) -> None:
        super().__init__()


class L2E(Loss):
    """Mean squared Euclidean distance of unit embeddings, |s/|s| - t|^2 = 2 - 2 cos(s, t), in [0, 4]."""

    needs = frozenset({"target"})

    def forward(self, embedding: Tensor, target: Tensor, label: Tensor | None = None) -> Tensor:
        return (_unit(embedding) - target).square().sum(1).mean()


class Cosine(Loss):
    """Mean of 1 - cos(s, t), in [0, 2]: half of `l2e`."""

    needs = frozenset({"target"})

    def forward(self, embedding: Tensor, target: Tensor, label: Tensor | None = None) -> Tensor:
        return 1 - (_unit(embedding) * target).sum(1).mean()


class Softmax(Loss):
    """Cross-entropy of a linear classifier on the raw embedding, in nats."""

    needs = frozenset({"label"})

    def __init__(self, dim: int, classes: int | None) -> None:
        super().__init__(dim, classes)
        self.classifier = nn.Linear(dim, _checked(classes))

    def forward(self, embedding: Tensor, target: Tensor | None, label: Tensor) -> Tensor:
        return functional.cross_entropy(self.classifier(embedding.float()), label)


class ArcFace(Loss):
    """Cross-entropy of scaled cosines to class centres, the own class moved away by an angle (in nats).

    The logit of the own class is scale * cos(theta + margin) (Deng et al. 2019, eq. 3). Where theta + margin
    would pass pi, cos(theta) - margin * sin(margin) continues it, so that it still falls as theta grows.
    """

    needs = frozenset({"label"})
    margin, scale = 0.5, 64.0

    def __init__(self, dim: int, classes: int | None) -> None:
        super().__init__(dim, classes)
        self.centres = nn.Parameter(torch.empty(_checked(classes), dim).normal_(0, 0.01))

    def forward(self, embedding: Tensor, target: Tensor | None, label: Tensor) -> Tensor:
        # Cosines near +-1 need float32 whatever the network computes in.
        with torch.autocast(embedding.device.type, enabled=False):
            cosines = _unit(embedding) @ _unit(self.centres).T
            cosines = cosines.clamp(-1 + _EPS, 1 - _EPS)
            own = cosines.gather(1, label[:, None])
            logits = cosines.scatter(1, label[:, None], self._moved(own))
            return functional.cross_entropy(self.scale * logits, label)

    def _moved(self, cosine: Tensor) -> Tensor:
        sine = (1 - cosine.square()).sqrt()
        moved = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(
            cosine > -math.cos(self.margin), moved, cosine - self.margin * math.sin(self.margin)
        )


LOSSES: dict[str, type[Loss]] = {"l2e": L2E, "cosine": Cosine, "softmax": Softmax, "arcface": ArcFace}


def build_loss(name: str, *, dim: int, classes: int | None = None) -> Loss:
    """The loss `name` (a key of `LOSSES`) for embeddings of `dim` numbers and (on labels) `classes`.

    Raises KdbiasError for an unknown name, or fewer than two classes where labels are needed.
    """
    if name not in LOSSES:
        raise KdbiasError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[name](dim, classes)


def loss_needs(name: str) -> frozenset[str]:
    """What the loss `name` needs of a batch: "target", "label" or both."""
    if name not in LOSSES:
        raise KdbiasError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[name].needs


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=1)


def _checked(classes: int | None) -> int:
    if classes is None or classes < 2:
        raise KdbiasError(
            f"a loss on labels needs at least two classes, found {classes or 0}: check --label-column"
        )
    return classes
