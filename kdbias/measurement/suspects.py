"""Which samples look wrong: images without content, copies, strangers, and labels that do not fit.

Thresholds and their reasons: docs/suspects.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.measurement.density import Measured
from kdbias.measurement.settings import IMAGE_WORDS, SUSPECT_WORDS
from kdbias.sphere.all_pairs import AllPairs
from kdbias.sphere.duplicates import NEAR_DUPLICATE_COSINE
from kdbias.sphere.near_chains import near_groups
from kdbias.sphere.room import room
from kdbias.sphere.vectors import label_sums
from kdbias.tables.columns import IMAGE, SUSPECT
from kdbias.tables.joins import ColumnParts, Ids
from kdbias.wording import counted

BLANK = 0.01
"""Contrast below which an image is of one colour: 2.5 of 255 levels, which noise and JPEG make of nothing."""
DARK = 0.15
"""Level that 99 % of the pixels do not reach in any channel: 2 % of the light of white (sRGB)."""
OVEREXPOSED = 0.95
"""Level that 99 % of the pixels exceed in every channel."""
FLAT = 0.05
"""Contrast from which an image is neither: a few lamps at night, a thin drawing on white paper."""
TINY, HUGE = 1 / 4, 10.0
"""Side of a square of the image's area, of the data's median one."""
ELONGATED = 3.0
"""Longer by shorter side, of the data's median one."""
FENCE = 3.0
"""Interquartile ranges above the upper quartile: Tukey's outer fence."""
EXCLUDED = ("blank", "dark", "overexposed")
"""What a list of suspects proposes to leave out: images without content."""
UNTOLD = 0.1
"""Share of misfit labels above which it is the teacher that tells the labels apart roughly at best."""
BLIND = 0.3
"""Share above which it does not tell them apart: of two labels alike a teacher by chance misses half."""
_BLOCK = 1 << 24  # cosines at a time


def image_flags(facts: np.ndarray | None, n: int) -> np.ndarray:
    """(n, 5) bool, by `IMAGE_WORDS`; nothing is said of an image that was not looked at.

    Args:
        facts: (n, 6) `columns.IMAGE`, NaN where unknown; None for all.
    """
    flags = np.zeros((n, len(IMAGE_WORDS)), dtype=bool)
    if facts is None or np.isnan(facts).all():
        return flags
    seen: np.ndarray = facts

    def fact(name: str) -> np.ndarray:
        return seen[:, IMAGE.index(f"image_{name}")].astype(np.float64)

    contrast = fact("contrast")
    blank = contrast < BLANK
    flat = ~blank & (contrast < FLAT)
    flags[:, 0] = blank
    flags[:, 1] = flat & (fact("brightest") < DARK)
    flags[:, 2] = flat & (fact("darkest") > OVEREXPOSED)
    width, height = fact("width"), fact("height")
    sides, long = np.sqrt(width * height), np.maximum(width, height) / np.minimum(width, height)
    sides, long = sides / np.nanmedian(sides), long / np.nanmedian(long)
    flags[:, 3] = sides < TINY
    flags[:, 4] = (sides > HUGE) | (long > ELONGATED)
    return flags


def isolated(nearest: np.ndarray) -> np.ndarray:
    """(n,) bool: whose distance (n,) to the nearest different vector is beyond the outer fence."""
    known = nearest[np.isfinite(nearest)]
    if len(known) < 4:
        return np.zeros(len(nearest), dtype=bool)
    low, high = np.quantile(known, [0.25, 0.75])
    return np.nan_to_num(nearest, nan=-np.inf) > high + FENCE * (high - low)


def nearest_other_label(
    x: np.ndarray, codes: np.ndarray, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The label, other than its own, whose centroid is nearest to each sample.

    Args:
        x: (n, d) float32 unit rows.
        codes: (n,) int label of each, -1 for none; two labels at least.
        device: where products are taken.

    Returns:
        (n,) int64 codes, and (n,) float64 cosines.
    """
    count = int(codes.max()) + 1
    sums = label_sums(x, codes, count)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    centroids = (sums / np.where(lengths > 1e-12, lengths, np.inf)).astype(np.float32)
    product = _product(centroids, device)
    best, cosines = room(x, len(x), np.int64), room(x, len(x))
    step = max(1, _BLOCK // count)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        best[rows], cosines[rows] = product(x[rows], codes[rows])
    return best, cosines


def _product(
    centroids: np.ndarray, device: str
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Takes rows (b, d) with their codes (b,) to the nearest other centroid and its cosine, (b,) each."""
    on_gpu = device != "cpu"
    if device.startswith("cuda"):  # the pass may run elsewhere, where there is a GPU
        import torch

        on_gpu = torch.cuda.is_available()
    if not on_gpu:

        def on_cpu(x: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = x @ centroids.T
            labelled = np.flatnonzero(codes >= 0)
            found[labelled, codes[labelled]] = -2
            best = found.argmax(axis=1)
            return best, found[np.arange(len(x)), best]

        return on_cpu
    import torch

    there = torch.from_numpy(centroids).to(device).T

    def on_device(x: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = torch.from_numpy(np.ascontiguousarray(x)).to(device) @ there
        own = torch.from_numpy(codes).to(device)
        labelled = torch.nonzero(own >= 0)[:, 0]
        found[labelled, own[labelled]] = -2
        values, best = found.max(dim=1)
        return best.cpu().numpy(), values.cpu().numpy()

    return on_device


def misfits(x: np.ndarray, codes: np.ndarray, hardness: np.ndarray, device: str) -> np.ndarray | None:
    """(n,) int64: the label whose centroid is nearer than the sample's own leave-one-out one, -1 for none.

    None where nothing can be judged: fewer than two labels, or none with two samples.

    Args:
        hardness: (n,) 1 - cosine to the own label's other samples, NaN where there are none.
    """
    known = codes[codes >= 0]
    if not len(known) or known.min() == known.max() or not np.isfinite(hardness).any():
        return None
    best, cosines = nearest_other_label(x, codes, device)
    best[~(1 - np.nan_to_num(hardness, nan=-1.0) < cosines)] = -1
    return best


def judged(
    x: np.ndarray,
    ids: pa.Array | Ids,
    labels: tuple[np.ndarray, pa.Array],
    facts: np.ndarray | None,
    measured: Measured,
    pairs: AllPairs,
    device: str = "cpu",
) -> tuple[dict[str, ColumnParts], dict[str, Any]]:
    """What is suspect about each sample.

    Args:
        x: (n, d) float32 unit rows.
        ids: of the samples.
        labels: (n,) int code of each label, -1 for none, and the labels.
        facts: (n, 6) `columns.IMAGE`, NaN where unknown; None where no image was looked at.
        measured: what was measured of the same samples.
        pairs: with their nearest neighbours, None for a single sample.

    Returns:
        The columns `columns.SUSPECT` of the density table, and the entry ``suspects`` of ``uniformity.json``.
    """
    n, group, (codes, names), ids = len(x), measured.first, labels, Ids.of(ids)
    if pairs.ids is not None and pairs.cosines is not None:
        group = near_groups(x, group, pairs.ids, pairs.cosines, NEAR_DUPLICATE_COSINE)
    other = misfits(x, codes, measured.hardness, device)
    unfit = np.zeros(n, dtype=bool) if other is None else other >= 0
    judged_labels = 0 if other is None else int(np.isfinite(measured.hardness).sum())
    told = unfit.sum() <= UNTOLD * judged_labels
    flags = np.column_stack([image_flags(facts, n), isolated(measured.nearest), unfit & told])
    sizes = np.bincount(group, minlength=n)
    code = np.packbits(flags, axis=1, bitorder="little")[:, 0]

    def nearest(start: int, stop: int) -> pa.Array:
        some = np.full(stop - start, -1) if other is None else other[start:stop]
        return names.take(pa.array(some, mask=some < 0))

    columns = (
        ColumnParts.made(ids.lengths, lambda start, stop: _in_words(code[start:stop])),
        ids.others(group),
        ColumnParts.made(ids.lengths, nearest),
    )
    return dict(zip(SUSPECT, columns, strict=True)), {
        "seen": 0 if facts is None else int(np.isfinite(facts[:, 0]).sum()),
        "words": {w: int(c) for w, c in zip(SUSPECT_WORDS, flags.sum(axis=0), strict=True) if c},
        "near": {
            "groups": int((sizes > 1).sum()),
            "samples": int(sizes[sizes > 1].sum()),
            "largest": int(sizes.max()),
        },
        "labels": {"judged": judged_labels, "misfit": int(unfit.sum())},
    }


def _in_words(code: np.ndarray) -> pa.Array:
    """(n,) uint8, a bit a word -> (n,) large_string: the words with blanks between them, null for none."""
    codes, place = np.unique(code, return_inverse=True)
    texts = [
        " ".join(w for bit, w in enumerate(SUSPECT_WORDS) if c >> bit & 1) or None for c in codes.tolist()
    ]
    return pa.array(texts, pa.large_string()).take(pa.array(place.reshape(-1)))


def has_word(suspect: pa.Array, words: tuple[str, ...]) -> np.ndarray:
    """(n,) bool: which of the column ``suspect`` hold one of the words."""
    pattern = rf"(^| )({'|'.join(words)})( |$)"
    found = pc.fill_null(pc.match_substring_regex(suspect, pattern), False)
    return found.to_numpy(zero_copy_only=False)


def suspect_lines(document: dict[str, Any], density: str | None = None) -> list[str]:
    """What ``uniformity.json`` says of suspects, for people; nothing where it was made before there were.

    Args:
        density: the folder, to be named in the command that lists them.
    """
    entry = document.get("suspects")
    if entry is None:
        return []
    n, words, near, labels = document["n"], entry["words"], entry["near"], entry["labels"]
    found = [f"{count:,} {word}" for word, count in words.items() if word != "label"]
    if "label" in words:
        found.append(f"{words['label']:,} with a label whose centroid is not their nearest")
    if near["groups"]:
        found.append(
            f"{near['samples']:,} in {counted(near['groups'], 'group')} of near duplicates (largest "
            f"{near['largest']:,})"
        )
    command = "kdbias suspects" + ("" if density is None else f" {shlex.quote(density)}")
    lines = [f"suspects: {', '.join(found)}; {command} lists them" if found else "suspects: none"]
    if entry["seen"] < n:
        unseen = (
            "no images were seen" if not entry["seen"] else f"{n - entry['seen']:,} images were not looked at"
        )
        lines.append(f"{unseen}: kdbias embed looks at those that it decodes, at no others")
    if labels["misfit"] > UNTOLD * labels["judged"]:
        tells = (
            "does not tell these labels apart" if blind_to(**labels) else "tells these labels apart roughly"
        )
        lines.append(
            f"labels: {labels['misfit']:,} of {labels['judged']:,} samples are nearer to another label's "
            f"centroid: the teacher {tells}, which says nothing about single ones"
        )
    return lines


def blind_to(judged: int, misfit: int) -> bool:
    """Whether a teacher does not tell labels apart, of so many judged samples with so many misfits."""
    return misfit > BLIND * judged
