"""Every quantity's heading, meaning, written form and direction, once. Definitions: docs/numbers.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

NONE = "n/a"
_FAR_BELOW = -9.995  # a rectification this far below natural sampling says no more than that


def decimals(digits: int) -> Callable[[float], str]:
    """A number with this many decimals, thousands separated."""
    return lambda value: f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """A share, 0 to 1, in percent."""
    return f"{100 * share:.1f} %"


def count(value: float) -> str:
    """A whole number with commas between thousands."""
    return f"{value:,.0f}"


def large(value: float) -> str:
    """A count that may be astronomical: the ceiling of D grows like e^2t."""
    return f"{value:,.1f}" if value < 1e6 else f"{value:.1e}"


def short(value: float | Sequence[float]) -> str:
    """As few digits as a value has, at most six; several with commas between them."""
    return ",".join(f"{one:g}" for one in (value if isinstance(value, Sequence) else [value]))


def significant(value: float) -> str:
    """Four significant digits: what is hardly ever is not never."""
    return f"{value:,.4g}"


def hundredths(share: float) -> str:
    """A share under a heading that ends in (%)."""
    return f"{100 * share:.1f}"


def rectified(share: float) -> str:
    """A rectified share as percent; far below zero, only that it is."""
    return "< -999 %" if share <= _FAR_BELOW else percent(share)


@dataclass(frozen=True)
class Quantity:
    """A number as people meet it.

    Attributes:
        heading: of its column.
        meaning: one line, with the unit.
        form: writes a value that there is.
        better: "higher", "lower", or "" where neither is.
        full: writes what ``form`` shortens to "< ...", for a note.
        text: the values are texts, flush left.
    """

    heading: str
    meaning: str = ""
    form: Callable[[Any], str] = str
    better: str = ""
    text: bool = False
    full: Callable[[Any], str] | None = None

    @property
    def scale(self) -> int:
        """The factor of what stands under the heading."""
        return 100 if self.heading.endswith("(%)") else 1

    def write(self, value: Any) -> str:
        """The value for people; n/a where there is none."""
        return NONE if value is None else self.form(value)

    def spread(self, values: Sequence[float]) -> str:
        """The mean of several values and their standard deviation (ddof 1); n/a where there are none."""
        if not values:
            return NONE
        ends = [statistics.fmean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]
        return " ± ".join(map(self.form, ends))


QUANTITIES: dict[str, Quantity] = {
    "scheme": Quantity("scheme", "how samples are weighted", text=True),
    "method": Quantity("method", "what kdbias weights was asked for", text=True),
    "t": Quantity("t", "kernel bandwidth: K = exp(-t |x - y|²); larger looks at closer neighbours", short),
    "n": Quantity("n", "how many there are", count),
    "samples": Quantity("samples", "how many there are", count),
    "count": Quantity("samples", "how many there are", count),
    "share": Quantity("share", "share of the samples", percent),
    "uniformity": Quantity(
        "U", "uniformity in nats, lower = more even (Wang & Isola, weighted)", decimals(4), "lower"
    ),
    "null": Quantity("null", "U of a uniform sphere of this dimension", decimals(4)),
    "excess": Quantity("excess", "U - null, in nats", decimals(4), "lower"),
    "effective_distinct": Quantity("D", "effective number of distinct samples at this t", large, "higher"),
    "distinct_before": Quantity(
        "D before", "effective number of distinct samples of natural sampling at this t", large
    ),
    "distinct_after": Quantity("D after", "the same under the manifest", large, "higher"),
    "distinct_ceiling": Quantity("ceiling", "largest D that any data of this dimension can have", large),
    "rectification": Quantity(
        "rectified",
        "0 % = natural, 100 % = the most even re-weighting of this data",
        rectified,
        "higher",
        full=lambda share: f"{100 * share:,.1f} %",
    ),
    "ess": Quantity("ESS", "Kish effective sample size: how many samples carry the draws", large, "higher"),
    "ess_share": Quantity("ESS/n", "Kish effective sample size, % of n", percent, "higher"),
    "effective_identities": Quantity(
        "eff. ids",
        "effective number of labels: exp(entropy of their share of the draws)",
        decimals(1),
        "higher",
    ),
    "easy": Quantity(
        "easy", "share of the draws of the easiest quarter: nearest to their label's centroid", percent
    ),
    "hard": Quantity("hard", "share of the draws of the hardest quarter", percent),
    "top_mass": Quantity("top 1 %", "share of the draws that the 1 % most drawn samples take", percent),
    "max_weight": Quantity("max w", "expected draws of the sample that is drawn most often", decimals(2)),
    "zero_weights": Quantity("never drawn", "samples of weight 0", count),
    "vendi_score": Quantity(
        "Vendi", "Vendi score: exp(entropy of the spectrum of the moments)", decimals(1), "higher"
    ),
    "koleo_entropy": Quantity(
        "KoLeo", "Kozachenko-Leonenko entropy estimate, in nats", decimals(3), "higher"
    ),
    "value": Quantity("value", "", decimals(4)),
    "low": Quantity("low", "lower end of the 95 % interval", decimals(4)),
    "high": Quantity("high", "upper end of the 95 % interval", decimals(4)),
    "a": Quantity("A", "mean over the runs of side A", decimals(4)),
    "b": Quantity("B", "mean over the runs of side B", decimals(4)),
    "difference": Quantity("B - A", "", "{:+.4f}".format),
    "p_value": Quantity("p", "how often chance alone gives a difference as large", decimals(3)),
    "centroid_accuracy": Quantity("accuracy, nearest centroid (%)", "", hundredths, "higher"),
    "centroid_balanced_accuracy": Quantity(
        "balanced accuracy, nearest centroid (%)", "", hundredths, "higher"
    ),
    "centroid_tail_accuracy": Quantity("tail accuracy, nearest centroid (%)", "", hundredths, "higher"),
    "knn_balanced_accuracy": Quantity("balanced accuracy, k nearest (%)", "", hundredths, "higher"),
    "distance": Quantity("embedding error (mean distance to the teacher)", "", decimals(4), "lower"),
    "cosine": Quantity("mean cosine to the teacher", "", decimals(4), "higher"),
    "mass": Quantity("mass", "share of the draws", percent),
    "share_before": Quantity("share before", "share of natural sampling's draws", percent),
    "share_after": Quantity("share after", "share of the draws under the manifest", percent),
    "weight": Quantity("weight", "expected draws an epoch, 1 on average", significant),
    "ess_after": Quantity("ESS after", "effective sample size of a group's own samples", large),
    "from_hardness": Quantity("from", "least hardness: 1 - cosine to the label's other samples", decimals(3)),
    "to_hardness": Quantity("to", "most hardness", decimals(3)),
    "discrepancy": Quantity(
        "MMD²", "squared discrepancy from the target, mean kernel; 0 = drawn like it", significant, "lower"
    ),
    "share_reference": Quantity("in the target", "share of the target", percent),
    "noise_ratio": Quantity(
        "/ noise", "the same over what a reference of this size is off by itself", decimals(1), "lower"
    ),
    "removed": Quantity(
        "removed", "share of natural sampling's discrepancy that is gone", rectified, "higher"
    ),
    "of_the_best": Quantity(
        "of the best",
        "the same as a share of what the re-weighting of this data that is nearest to the target removes",
        rectified,
        "higher",
        full=lambda share: f"{100 * share:,.1f} %",
    ),
    "two_sample": Quantity(
        "p", "two-sample test: below .05, such draws and the reference differ", decimals(3)
    ),
    "balance": Quantity("", "beyond what sampling explains"),
    "witness": Quantity(
        "witness", "mean over samples: > 0 over-full, < 0 short against the target", significant
    ),
    "log_density": Quantity("log density", "mean log of the potential at the chosen bandwidth", decimals(3)),
    "log_density_before": Quantity(
        "log density before", "mean over samples of the log of the potential", decimals(3)
    ),
    "log_density_after": Quantity("log density after", "the same over draws", decimals(3)),
}
"""Name of a number (its key in the documents that kdbias writes) -> how people meet it."""


def quantity(key: str) -> Quantity:
    """The quantity of a key; a key that is none stands for itself, as text."""
    return QUANTITIES.get(key) or Quantity(key, text=True)


def write(key: str, value: Any) -> str:
    """A value of a quantity as text."""
    return quantity(key).write(value)
