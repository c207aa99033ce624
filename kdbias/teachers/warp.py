"""Bilinear sampling at arbitrary points with replicated borders: affine warps, resizing without antialias.

What depends only on sizes and matrix is computed once and kept.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
_Map = tuple[np.ndarray, np.ndarray]
_ONE = 2048


def warp_affine(image: np.ndarray, target: tuple[int, int], affine: Matrix) -> np.ndarray:
    """uint8 (H, W, c) -> uint8 (h, w, c), where `affine` maps source (x, y, 1) to target coordinates."""
    return _sample(image, _affine_map(image.shape[:2], target, affine), target)


def resize_at_centres(image: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, c) -> uint8 (h, w, c): bilinear at pixel centres, no wider filter when shrinking.

    In the fixed-point arithmetic of OpenCV's `resize`, to the bit (weights in 1/2048, rows cut to 1/128
    before they are blended, exact halving as an average of four): networks that were trained on its output
    can move an embedding visibly for roundings of a single grey level.
    """
    (height, width), (tall, wide) = image.shape[:2], target
    if height == 2 * tall and width == 2 * wide:
        quads = image.reshape(tall, 2, wide, 2, -1).astype(np.uint16)
        return ((quads.sum(axis=(1, 3), dtype=np.uint16) + 2) >> 2).astype(np.uint8)
    x, left, right = _axis(width, wide)
    y, upper, lower = _axis(height, tall)
    inside = (x >= 0) & (x < width - 1)
    left, right = np.where(inside, left, _ONE), np.where(inside, right, 0)
    pixels = image.astype(np.int32)
    columns = pixels.take(np.clip(x, 0, width - 1), axis=1) * left[:, None]
    columns += pixels.take(np.clip(x + 1, 0, width - 1), axis=1) * right[:, None]
    columns >>= 4
    out = (columns.take(np.clip(y, 0, height - 1), axis=0) * upper[:, None, None]) >> 16
    out += (columns.take(np.clip(y + 1, 0, height - 1), axis=0) * lower[:, None, None]) >> 16
    return ((out + 2) >> 2).astype(np.uint8)


@lru_cache(maxsize=8)
def _affine_map(source: tuple[int, int], target: tuple[int, int], affine: Matrix) -> _Map:
    """The four pixels and weights that make each target pixel."""
    matrix = np.vstack([np.asarray(affine), [0.0, 0.0, 1.0]])
    ys, xs = np.mgrid[: target[0], : target[1]].astype(np.float64)
    points = np.linalg.inv(matrix) @ np.stack([xs.ravel(), ys.ravel(), np.ones(xs.size)])
    return _bilinear_map(points[0], points[1], source)


@lru_cache(maxsize=16)
def _axis(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each target pixel along one axis: the first source pixel (may be -1), both weights in 1/2048."""
    place = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(place)
    second = place - first
    weights = (np.rint(w * np.float32(_ONE)).astype(np.int32) for w in (1 - second, second))
    return first.astype(np.intp), *weights


def _bilinear_map(x: np.ndarray, y: np.ndarray, source: tuple[int, int]) -> _Map:
    """The four source pixels (4, h*w) of each target pixel and their weights (4, h*w, 1)."""
    height, width = source
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = x - x0, y - y0
    pixels = np.stack([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1])
    weights = np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy]).astype(np.float32)
    return pixels, weights[:, :, None]


def _sample(image: np.ndarray, points: _Map, target: tuple[int, int]) -> np.ndarray:
    """uint8 (height, width, channels) of the target from an image and its map."""
    flat = np.ascontiguousarray(image).reshape(-1, image.shape[2])
    out = np.full((target[0] * target[1], image.shape[2]), 0.5, dtype=np.float32)
    for pixels, weights in zip(*points, strict=True):
        out += flat.take(pixels, axis=0, mode="clip") * weights
    return out.astype(np.uint8).reshape(*target, image.shape[2])
