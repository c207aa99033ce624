"""What a student learns from: teacher vectors (l2e, cosine, rkd, ...), labels (softmax, arcface), or both.

Every loss is a module called with (embedding, targets) that returns a scalar, the mean over the batch;
`embedding` is the raw output (b, dim) of the network. A new loss is a class here that says in `needs` which
fields of the targets it reads, and a line in `NAMES`. Class centres are parameters of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbias.errors import KdbiasError
from kdbias.loss_terms import NAMES, parse_loss

# Distance of a cosine from +-1 below which the gradient of an angle is no longer finite in float32.
_EPS = 1e-6
# Triplets grow with the cube of the batch: angles are compared among this many of its (randomly drawn)
# samples.
_ANGLE_SAMPLES = 64


@dataclass
class Targets:
    """What is known about the images of a batch; None where no loss asks for it.

    vector  (b, dim) float32 unit teacher vectors
    norm    (b,) float32 L2 norms of the teacher's vectors before they were made unit
    label   (b,) int64 class numbers 0 .. classes-1
    """

    vector: Tensor | None = None
    norm: Tensor | None = None
    label: Tensor | None = None


class Loss(nn.Module):
    """Base of all losses.

    needs      names the fields of `Targets` that `forward` reads
    takes      names the options it has
    equal_dim  whether a student that is compared with the target must have its dimension
    """

    needs: ClassVar[frozenset[str]] = frozenset({"vector"})
    takes: ClassVar[frozenset[str]] = frozenset()
    equal_dim: ClassVar[bool] = True

    def __init__(self, dim: int, classes: int | None, options: Mapping[str, float]) -> None:
        super().__init__()


class L2E(Loss):
    """Mean squared Euclidean distance of unit embeddings, |s/|s| - t|^2 = 2 - 2 cos(s, t), in [0, 4]."""

    def forward(self, embedding: Tensor, targets: Targets) -> Tensor:
        """Mean squared distance of unit vectors; embedding (b, d)."""
        return (_unit(embedding) - _given(targets.vector)).square().sum(1).mean()


class RawL2E(Loss):
    """Mean squared error per coordinate of raw embeddings: the student learns the teacher's norms as well."""

    needs = frozenset({"vector", "norm"})

    def forward(self, embedding: Tensor, targets: Targets) -> Tensor:
        """Mean squared difference to the target at its stored length; embedding (b, d)."""
        target = _given(targets.vector) * _given(targets.norm)[:, None]
        return (embedding.float() - target).square().mean()


class Cosine(Loss):
    """Mean of 1 - cos(s, t), in [0, 2]: half of `l2e`."""

    def forward(self, embedding: Tensor, targets: Targets) -> Tensor:
        """One minus the mean cosine; embedding (b, d)."""
        return 1 - (_unit(embedding) * _given(targets.vector)).sum(1).mean()


class Relational(Loss):
    """Distances and angles within the batch, not places on the sphere (RKD; Park et al. 2019, eqs. 4-9).

    Huber loss between the student's and the teacher's pair distances, each divided by its batch mean, plus
    twice that between the cosines of the angles of triplets (the paper's ratio), of unit embeddings. Teacher
    and student may differ in dimension. Pairs of the same image, drawn twice, count as distance zero.
    """

    equal_dim = False

    def forward(self, embedding: Tensor, targets: Targets) -> Tensor:
        """Difference of the batch's distances, and twice that of its angles; embedding (b, d)."""
        student, teacher = _unit(embedding), _given(targets.vector)
        with torch.autocast(student.device.type, enabled=False):
            distance = functional.smooth_l1_loss(_scaled_distances(student), _scaled_distances(teacher))
            angle = functional.smooth_l1_loss(_angles(student), _angles(teacher))
        return distance + 2 * angle


class Softmax(Loss):
    """Cross-entropy of a linear classifier on the raw embedding, in nats."""

    needs = frozenset({"label"})

    def __init__(self, dim: int, classes: int | None, options: Mapping[str, float]) -> None:
        super().__init__(dim, classes, options)
        self.classifier = nn.Linear(dim, _checked(classes))

    def forward(self, embedding: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of the labels, int64 (b,); embedding (b, d)."""
        with torch.autocast(embedding.device.type, enabled=False):
            return functional.cross_entropy(self.classifier(embedding.float()), _given(targets.label))


class MarginSoftmax(Loss):
    """Cross-entropy (nats) of `scale` * cosine to class centres, the own class's cosine lowered."""

    needs = frozenset({"label"})
    takes = frozenset({"scale", "margin"})
    margin: float

    def __init__(self, dim: int, classes: int | None, options: Mapping[str, float]) -> None:
        super().__init__(dim, classes, options)
        self.scale = options.get("scale", 64.0)
        self.margin = options.get("margin", type(self).margin)
        self.centres = nn.Parameter(torch.empty(_checked(classes), dim).normal_(0, 0.01))

    def forward(self, embedding: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy with each sample's own cosine lowered by the margin; embedding (b, d)."""
        label = _given(targets.label)
        # Cosines near +-1 need float32 whatever the network computes in.
        with torch.autocast(embedding.device.type, enabled=False):
            cosines = (_unit(embedding) @ _unit(self.centres).T).clamp(-1 + _EPS, 1 - _EPS)
            own = cosines.gather(1, label[:, None])
            logits = cosines.scatter(1, label[:, None], self.lowered(own))
            return functional.cross_entropy(self.scale * logits, label)

    def lowered(self, cosine: Tensor) -> Tensor:
        """The own class's logit before scaling."""
        raise NotImplementedError


class ArcFace(MarginSoftmax):
    """cos(theta + margin) for the own class (Deng et al. 2019, eq. 3).

    Where theta + margin would pass pi, cos(theta) - margin * sin(margin) continues it, so that it still
    falls as theta grows.
    """

    margin = 0.5

    def lowered(self, cosine: Tensor) -> Tensor:
        """Cosines of the angles widened by the margin (radians), in the shape given."""
        sine = (1 - cosine.square()).sqrt()
        moved = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), moved, beyond)


class CosFace(MarginSoftmax):
    """cos(theta) - margin for the own class (Wang et al. 2018, eq. 4)."""

    margin = 0.4

    def lowered(self, cosine: Tensor) -> Tensor:
        """Cosines less the margin, in the shape given."""
        return cosine - self.margin


LOSSES: dict[str, type[Loss]] = {name: globals()[kind] for name, kind in NAMES.items()}


class WeightedSum(nn.Module):
    """Sum of factor * loss; `parts` (terms,) are the last call's detached summands, in order of `names`."""

    def __init__(self, factors: list[float], losses: list[Loss], names: list[str]) -> None:
        super().__init__()
        self.factors, self.names = factors, names
        self.losses = nn.ModuleList(losses)
        self.parts = torch.zeros(len(names))

    def forward(self, embedding: Tensor, targets: Targets) -> Tensor:
        """Weighted sum of the losses; `parts` keeps the summands, (losses,)."""
        summands = [f * loss(embedding, targets) for f, loss in zip(self.factors, self.losses, strict=True)]
        stacked = torch.stack(summands)
        self.parts = stacked.detach()
        return stacked.sum()


def build_loss(
    text: str, *, dim: int, classes: int | None = None, options: Mapping[str, float] | None = None
) -> WeightedSum:
    """The loss that `text` names, a key of `LOSSES` or a sum such as "l2e+0.5*arcface".

    `options` are "scale" and "margin" of arcface and cosface. Raises KdbiasError for an unknown name, options
    that no term takes, or fewer than two classes where labels are needed.
    """
    terms = parse_loss(text)
    idle = sorted(set(options or {}).difference(*(LOSSES[name].takes for _, name in terms)))
    if idle:
        raise KdbiasError(
            f"loss {text} takes no {' and no '.join(idle)} (arcface and cosface do): leave it out"
        )
    losses = [LOSSES[name](dim, classes, options or {}) for _, name in terms]
    return WeightedSum([factor for factor, _ in terms], losses, [name for _, name in terms])


def loss_needs(text: str) -> frozenset[str]:
    """Which fields of `Targets` the loss needs."""
    return frozenset().union(*(LOSSES[name].needs for _, name in parse_loss(text)))


def needs_equal_dim(text: str) -> bool:
    """Whether a term of the loss compares student and teacher coordinate by coordinate."""
    losses = [LOSSES[name] for _, name in parse_loss(text)]
    return any("vector" in loss.needs and loss.equal_dim for loss in losses)


def _scaled_distances(x: Tensor) -> Tensor:
    """Distances between all rows of x (b, d), divided by their mean; float (b * (b - 1),)."""
    # The square root has no gradient at zero; identical samples (drawn twice) stay at a constant tiny
    # distance.
    gram = x @ x.T
    squares = gram.diagonal()[:, None] + gram.diagonal()[None, :] - 2 * gram
    distances = squares.clamp_min(_EPS).sqrt()
    apart = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    distances = distances[apart]
    return distances / distances.mean().clamp_min(_EPS)


def _angles(x: Tensor) -> Tensor:
    """(m, m, m) cosine of the angle at the first point between the other two."""
    x = x[:_ANGLE_SAMPLES]
    directions = functional.normalize(x[None, :, :] - x[:, None, :], dim=2, eps=1e-3)
    return directions @ directions.transpose(1, 2)


def _unit(vectors: Tensor) -> Tensor:
    """Rows (n, d) as float32 at length 1."""
    return functional.normalize(vectors.float(), dim=1)


def _given(value: Tensor | None) -> Tensor:
    """A target that the loss has asked for."""
    assert value is not None, "the targets lack what the loss says it needs"
    return value


def _checked(classes: int | None) -> int:
    """The number of classes, at least 2."""
    if classes is None or classes < 2:
        raise KdbiasError(
            f"a loss on labels needs at least two classes, found {classes or 0}: check --label-column"
        )
    return classes
