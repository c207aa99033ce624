"""Weights from the sizes of the classes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbias.settings import option
from kdbias.weighting.schemes.scheme import Scheme, Weights

if TYPE_CHECKING:
    import numpy as np

    from kdbias.weighting.samples import Samples


@dataclass(frozen=True, kw_only=True)
class ClassBalanced(Scheme):
    """Every class the same mass: w = 1 / (size of the class). Unlabelled samples keep the mean weight."""

    name = "class-balanced"

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,) that depend on the size of the sample's class."""
        import numpy as np

        codes, sizes = samples.labels(self.name)
        of_class = self.of_class(sizes.astype(np.float64))
        labelled = codes >= 0
        values = np.ones(samples.m)
        values[labelled] = of_class[codes[labelled]]
        values[labelled] *= labelled.sum() / values[labelled].sum()
        facts = {"classes": len(sizes), "unlabelled": int((~labelled).sum()), **self.record()}
        return Weights(values, facts)

    def of_class(self, sizes: np.ndarray) -> np.ndarray:
        """(classes,) weights from the sizes of the classes, both float64."""
        return 1 / sizes


@dataclass(frozen=True, kw_only=True)
class EffectiveNumber(ClassBalanced):
    """w = (1 - beta) / (1 - beta^n) for a class of n samples (Cui et al., CVPR 2019).

    beta 0 leaves natural sampling, beta -> 1 balances the classes; in between, about 1 / (1 - beta) samples
    of a class count as new ones.
    """

    name = "effective-number"
    beta: float = option(0.99, "0 = natural, near 1 = class-balanced", least=0, below=1)

    def of_class(self, sizes: np.ndarray) -> np.ndarray:
        """Weight of each class, (classes,), from its size."""
        import numpy as np

        if not self.beta:
            return np.ones(len(sizes))
        return (1 - self.beta) / -np.expm1(sizes * np.log(self.beta))
