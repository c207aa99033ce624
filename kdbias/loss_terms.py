"""What a loss may be called, and sums of losses taken apart. Imports no torch."""

import re

from kdbias.errors import KdbiasError
from kdbias.wording import nearest

# name -> its class in `kdbias.losses`.
NAMES = {
    "l2e": "L2E",
    "l2e-raw": "RawL2E",
    "cosine": "Cosine",
    "rkd": "Relational",
    "softmax": "Softmax",
    "arcface": "ArcFace",
    "cosface": "CosFace",
}


OF_LABELS = ("softmax", "arcface", "cosface")
"""Those that learn from labels; all others learn from a teacher."""


def parse_loss(text: str) -> list[tuple[float, str]]:
    """(factor, name) of each term of "l2e", "l2e+0.5*arcface", ...; refuses what it does not know."""
    terms = []
    for term in text.split("+"):
        match = re.fullmatch(r"\s*(?:([0-9.]+(?:e-?[0-9]+)?)\s*\*)?\s*([a-z0-9-]+)\s*", term)
        if match is None or match[2] not in NAMES:
            raise KdbiasError(
                f"unknown loss {text!r}; known: {', '.join(NAMES)}, and sums such as l2e+0.5*arcface"
                + nearest(match[2] if match else term, NAMES)
            )
        terms.append((_factor(match[1] or "1", text), match[2]))
    if len({name for _, name in terms}) < len(terms):
        raise KdbiasError(f"loss {text!r} names a term twice: add their factors")
    return terms


def _factor(text: str, loss: str) -> float:
    """A loss's factor, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise KdbiasError(f"loss {loss!r}: the factor {text!r} should be a number above 0")
    return value
