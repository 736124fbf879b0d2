"""Derives the polynomials of td-expand-math: minimax fits with float32 coefficients.

Each fit minimises the largest weighted error on a dense grid by Lawson's algorithm (weighted least
squares whose weights follow the error). Coefficients become float32 one at a time from the lowest
degree, and the others are fitted again around each, so that rounding them costs no accuracy.
Run it to print the tables of lib/Kernels/MathExpansion.cpp; with the path of lib/Kernels/GeluTables.inc, to
write that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import erf, erfc, log_ndtr, ndtr


def lawson(basis: np.ndarray, value: np.ndarray, weight: np.ndarray, rounds: int = 200) -> np.ndarray:
    """Coefficients that minimise max |weight * (basis @ c - value)|; basis is points x terms."""
    share = np.full(len(value), 1.0 / len(value))
    best, best_error = np.zeros(basis.shape[1]), np.inf
    for _ in range(rounds):
        scale = np.sqrt(share) * weight
        c = np.linalg.lstsq(basis * scale[:, None], value * scale, rcond=None)[0]
        error = np.abs(weight * (basis @ c - value))
        if error.max() < best_error:
            best, best_error = c, error.max()
        share *= error + 1e-3 * error.max()
        share /= share.sum()
    return best


def fit(
    f: Callable[[np.ndarray], np.ndarray],
    weight: Callable[[np.ndarray], np.ndarray],
    low: float,
    high: float,
    degree: int,
    known: tuple[float, ...] = (),
) -> tuple[np.ndarray, float]:
    """float32 coefficients, lowest degree first, of a polynomial for f on [low, high], and its error.

    The first coefficients are `known`.
    """
    x = (low + high) / 2 + (high - low) / 2 * np.cos(np.linspace(0, np.pi, 1001))
    x = x[np.abs(x) > 1e-4]
    value, w = f(x), weight(x)
    powers = x[:, None] ** np.arange(degree + 1)
    fixed = list(known)
    for term in range(len(known), degree + 1):
        rest = value - powers[:, :term] @ np.array(fixed) if fixed else value
        fixed.append(float(np.float32(lawson(powers[:, term:], rest, w)[0])))
    c = np.array(fixed)
    return c, float(np.abs(w * (powers @ c - value)).max())


def table(name: str, c: np.ndarray, error: float) -> None:
    print(f"{name}: weighted error 2^{np.log2(error):.1f}")
    print("  " + ", ".join(f"{float(v).hex()}f" for v in c))


# Rows on either side of zero and a row's width, of the tables of GELU's factor Phi(x) and of its slope.
# Beyond them, what is left is below the rounding of 1.
GELU_TABLES = {"gelu": (23, 0.25), "geluSlope": (50, 0.125)}


def gelu_tables() -> str:
    """Polynomials of fourth degree in x's distance from the middle of its row."""

    def slope(x: np.ndarray) -> np.ndarray:
        return ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)

    lines = ["// Output of tools/fit_math.py: for each degree, highest first, the coefficients of all rows."]
    for (name, (rows, width)), f in zip(GELU_TABLES.items(), (ndtr, slope), strict=True):
        coefficients, largest = [np.zeros(5)], 0.0
        for row in range(1 - rows, rows):
            c, error = fit(lambda r, f=f, x=row * width: f(x + r), np.ones_like, -width / 2, width / 2, 4)
            coefficients.append(c)
            largest = max(largest, error)
        coefficients.append(np.array([1.0, 0, 0, 0, 0]))
        lines.append(f"// Error 2^{np.log2(largest):.1f}, most of it the rounding of the first coefficient.")
        lines.append(f"constexpr Table<{rows}> {name}Table = {{{float(1 / width)}f, {{")
        for column in np.array(coefficients).T[::-1]:
            values = [float(v).hex().replace("0000000p", "p").replace("0x0.0p", "0x0p") + "f" for v in column]
            lines += ["    " + ", ".join(values[i : i + 3]) + "," for i in range(0, len(values), 3)]
        lines.append("}};")
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(gelu_tables())
        return
    half_ln2 = np.log(2) / 2 * 1.0002
    # e^r = 1 + r + r^2 P(r), error relative to e^r; expm1 shares it, so also relative to expm1 near zero.
    table(
        "exp P",
        *fit(
            lambda r: (np.expm1(r) - r) / r**2,
            lambda r: r**2 / np.abs(np.expm1(r)),
            -half_ln2,
            half_ln2,
            4,
            (0.5,),
        ),
    )
    # log(1+f) = f - f^2/2 + f^3 Q(f), error relative to log(1+f).
    table(
        "log Q",
        *fit(
            lambda f: (np.log1p(f) - f + f**2 / 2) / f**3,
            lambda f: np.abs(f**3 / np.log1p(f)),
            np.sqrt(0.5) - 1,
            np.sqrt(2) - 1,
            7,
        ),
    )
    # 2^r = 1 + r P(r), relative to 2^r - 1.
    table(
        "exp2 P",
        *fit(
            lambda r: np.expm1(r * np.log(2)) / r,
            lambda r: r / np.abs(np.expm1(r * np.log(2))),
            -0.5001,
            0.5001,
            5,
        ),
    )
    # erf(x) = 1 - 2^(x Q(x)) for 0 <= x <= 4: an error of Q counts as much as erfc leaves of it.
    table(
        "erf Q",
        *fit(
            lambda x: 1 / x + log_ndtr(-x * np.sqrt(2)) / np.log(2) / x,
            lambda x: erfc(x) * np.log(2) * x / erf(x),
            0.0,
            3.95,
            7,
        ),
    )


if __name__ == "__main__":
    main()
