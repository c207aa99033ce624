"""Bilinear sampling at arbitrary points with replicated borders: affine warps, resizing without antialias.

The sampling points depend only on the sizes and the matrix, so they are computed once and kept; per image
there are four gathers and a weighted sum.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
_Map = tuple[np.ndarray, np.ndarray]


def warp_affine(image: np.ndarray, target: tuple[int, int], affine: Matrix) -> np.ndarray:
    """uint8 (H, W, c) -> uint8 (h, w, c), where `affine` maps source (x, y, 1) to target coordinates."""
    return _sample(image, _affine_map(image.shape[:2], target, affine), target)


def resize_at_centres(image: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, c) -> uint8 (h, w, c): bilinear at pixel centres, no wider filter when shrinking."""
    return _sample(image, _resize_map(image.shape[:2], target), target)


@lru_cache(maxsize=8)
def _affine_map(source: tuple[int, int], target: tuple[int, int], affine: Matrix) -> _Map:
    matrix = np.vstack([np.asarray(affine), [0.0, 0.0, 1.0]])
    ys, xs = np.mgrid[: target[0], : target[1]].astype(np.float64)
    points = np.linalg.inv(matrix) @ np.stack([xs.ravel(), ys.ravel(), np.ones(xs.size)])
    return _bilinear_map(points[0], points[1], source)


@lru_cache(maxsize=8)
def _resize_map(source: tuple[int, int], target: tuple[int, int]) -> _Map:
    ys, xs = np.mgrid[: target[0], : target[1]].astype(np.float64)
    x = (xs.ravel() + 0.5) * source[1] / target[1] - 0.5
    y = (ys.ravel() + 0.5) * source[0] / target[0] - 0.5
    return _bilinear_map(x, y, source)


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
    flat = np.ascontiguousarray(image).reshape(-1, image.shape[2])
    out = np.full((target[0] * target[1], image.shape[2]), 0.5, dtype=np.float32)
    for pixels, weights in zip(*points, strict=True):
        out += flat[pixels] * weights
    return out.astype(np.uint8).reshape(*target, image.shape[2])
