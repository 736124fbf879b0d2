"""Interpolation along an axis as ONNX's Resize defines it, as a matrix."""

from __future__ import annotations

from math import ceil, floor

import numpy as np


def resize_matrix(
    size: int,
    wanted: int,
    scale: float,
    roi: tuple[float, float] | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    antialias: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix [wanted, size] of weights, and which rows lie outside of a region of interest (all zeros).

    scale: of the axis, wanted / size where that is whole.
    roi: the region's begin and end, of tf_crop_and_resize.
    Errors: ValueError for a word that ONNX does not have.
    """
    weights = np.zeros((wanted, size))
    outside = np.zeros(wanted, bool)
    for row in range(wanted):
        at = _coordinate(row, size, wanted, scale, roi, coordinate_transformation_mode)
        if coordinate_transformation_mode == "tf_crop_and_resize" and not 0 <= at <= size - 1:
            outside[row] = True
            continue
        if mode == "nearest":
            weights[row, min(max(_nearest(at, nearest_mode), 0), size - 1)] = 1
            continue
        if mode in ("linear", "bilinear", "trilinear"):
            reach, kernel = 1, _triangle
        elif mode in ("cubic", "bicubic"):
            reach = 2

            def kernel(x: float) -> float:
                return _cubic(x, cubic_coeff_a)

        else:
            raise ValueError(f"has the mode '{mode}'; there are nearest, linear and cubic")
        narrow = min(scale, 1.0) if antialias else 1.0
        span = reach / narrow
        taps = range(floor(at - span), ceil(at + span) + 1)
        shares = {tap: kernel((tap - at) * narrow) for tap in taps}
        if exclude_outside:
            shares = {tap: share for tap, share in shares.items() if 0 <= tap < size}
        total = sum(shares.values())
        for tap, share in shares.items():
            weights[row, min(max(tap, 0), size - 1)] += share / total
    return weights, outside


def _coordinate(
    row: int, size: int, wanted: int, scale: float, roi: tuple[float, float] | None, mode: str
) -> float:
    """Where a row of the result lies in the input."""
    length = scale * size
    if mode == "align_corners":
        return 0.0 if length == 1 else row * (size - 1) / (length - 1)
    if mode == "asymmetric":
        return row / scale
    if mode == "tf_crop_and_resize":
        begin, end = roi or (0.0, 1.0)
        if length == 1:
            return (begin + end) * (size - 1) / 2
        return begin * (size - 1) + row * (end - begin) * (size - 1) / (length - 1)
    if mode == "pytorch_half_pixel":
        return (row + 0.5) / scale - 0.5 if length > 1 else 0.0
    if mode == "half_pixel":
        return (row + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return size / 2 * (1 - wanted / length) + (row + 0.5) / scale - 0.5
    raise ValueError(f"has the coordinate transformation '{mode}', which ONNX does not have")


def _nearest(at: float, mode: str) -> int:
    if mode == "round_prefer_floor":
        return ceil(at - 0.5)
    if mode == "round_prefer_ceil":
        return floor(at + 0.5)
    if mode in ("floor", "ceil"):
        return floor(at) if mode == "floor" else ceil(at)
    raise ValueError(f"has the nearest mode '{mode}', which ONNX does not have")


def _triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _cubic(x: float, a: float) -> float:
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0
