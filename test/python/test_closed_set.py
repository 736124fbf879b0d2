"""Windows, slices and contractions of any rank, from the plan to machine code, against the host's JIT."""

from __future__ import annotations

import pytest

from closed_set import Step, Tensor
from traindeeploy.target import load_target

TARGETS = ("pulp-redmule", "pulp")
CONV = "n oh ow oc kh kw ic"


def conv(step: Step, x: Tensor, w: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolution of a padded NHWC array with a filter [kh, kw, ic, oc]."""
    n, h, width, _ = x.shape
    kh, kw, _, oc = w.shape
    oh, ow = ((size - dilation * (k - 1) - 1) // stride + 1 for size, k in ((h, kh), (width, kw)))
    window = f"n, oh * {stride} + kh * {dilation}, ow * {stride} + kw * {dilation}, ic"
    zero = step.fill((n, oh, ow, oc))
    return step.contract(CONV, "kh kw ic", (x, window), (w, "kh, kw, ic, oc"), (zero, "n, oh, ow, oc"))


def relu(step: Step, x: Tensor, bias: Tensor) -> Tensor:
    body = """%s = arith.addf %a0, %a1 : f32
    %z = arith.constant 0.0 : f32
    %r = arith.maximumf %s, %z : f32"""
    return step.generic(
        "n h w c", "", [(x, "n, h, w, c"), (bias, "c")], (step.empty(x.shape), "n, h, w, c"), body
    )


# n, h, w, ic, oc, kernel, stride, dilation, padding
CONVOLUTIONS = [
    (1, 8, 8, 16, 16, 3, 1, 1, 1),
    (1, 12, 11, 3, 13, 3, 1, 1, 1),
    (2, 9, 7, 5, 3, 3, 2, 1, 1),
    (1, 13, 13, 2, 7, 3, 1, 2, 2),
    (3, 7, 5, 7, 1, 1, 2, 1, 0),
    (1, 5, 5, 1, 1, 5, 1, 1, 2),
    (1, 17, 19, 31, 37, 2, 3, 2, 1),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: tuple[int, ...], target: str) -> None:
    n, h, w, ic, oc, k, stride, dilation, padding = case
    step = Step()
    x = step.read((n, h, w, ic))
    weight, bias = step.read((k, k, ic, oc)), step.read((oc,))
    padded = step.pad(x, padding) if padding else x
    step.assign(relu(step, conv(step, padded, weight, stride, dilation), bias))
    step.check(load_target(target))


@pytest.mark.parametrize("target", TARGETS)
def test_convolution_larger_than_l1(target: str) -> None:
    step = Step()
    x = step.read((1, 34, 34, 24))
    y = conv(step, x, step.read((3, 3, 24, 40)))
    z = conv(step, step.pad(relu(step, y, step.read((40,))), 1), step.read((3, 3, 40, 16)), 2)
    step.assign(z)
    step.check(load_target(target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_gradients_of_a_convolution(case: tuple[int, ...], target: str) -> None:
    n, h, w, ic, oc, k, stride, dilation, padding = case
    step = Step()
    height, width = h + 2 * padding, w + 2 * padding
    reach = dilation * (k - 1)
    oh, ow = (height - reach - 1) // stride + 1, (width - reach - 1) // stride + 1
    x, dy, weight = step.read((n, height, width, ic)), step.read((n, oh, ow, oc)), step.read((k, k, ic, oc))
    window = f"n, oh * {stride} + kh * {dilation}, ow * {stride} + kw * {dilation}, ic"
    step.assign(
        step.contract(
            "kh kw ic oc n oh ow",
            "n oh ow",
            (x, window),
            (dy, "n, oh, ow, oc"),
            (step.fill((k, k, ic, oc)), "kh, kw, ic, oc"),
        )
    )
    # The cotangent with zeros between its elements and around them; the filter read backwards.
    stuffed = step.insert(
        dy,
        step.fill((n, height + reach, width + reach, oc)),
        (0, reach, reach, 0),
        (1, stride, stride, 1),
    )
    turned = step.fill((k, k, ic, oc))
    for i in range(k):
        for j in range(k):
            tap = step.slice(weight, (i, j, 0, 0), (1, 1, ic, oc), (1, 1, 1, 1))
            turned = step.insert(tap, turned, (k - 1 - i, k - 1 - j, 0, 0), (1, 1, 1, 1))
    step.assign(
        step.contract(
            "n h w ic kh kw oc",
            "kh kw oc",
            (stuffed, f"n, h + kh * {dilation}, w + kw * {dilation}, oc"),
            (turned, "kh, kw, ic, oc"),
            (step.fill((n, height, width, ic)), "n, h, w, ic"),
        )
    )
    step.check(load_target(target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("tokens", "heads", "size"), [(64, 2, 64), (7, 3, 5), (1, 1, 4), (150, 4, 33)])
def test_attention(tokens: int, heads: int, size: int, target: str) -> None:
    step = Step()
    full = heads * size
    x = step.read((tokens, full), scale=0.3)
    projected = []
    for _ in range(3):
        w = step.read((full, full), scale=0.3)
        y = step.contract("m k n", "n", (x, "m, n"), (w, "k, n"), (step.fill((tokens, full)), "m, k"))
        projected.append(step.reshape(y, (tokens, heads, size), "[[0], [1, 2]]"))
    q, k, v = projected
    scores = step.contract(
        "h t s d", "d", (q, "t, h, d"), (k, "s, h, d"), (step.fill((heads, tokens, tokens)), "h, t, s")
    )
    most = step.generic(
        "h t s",
        "s",
        [(scores, "h, t, s")],
        (step.fill((heads, tokens), float("-inf")), "h, t"),
        "%r = arith.maximumf %a0, %o : f32",
    )
    exps = step.generic(
        "h t s",
        "",
        [(scores, "h, t, s"), (most, "h, t")],
        (step.empty(scores.shape), "h, t, s"),
        "%d = arith.subf %a0, %a1 : f32\n%r = math.exp %d : f32",
    )
    total = step.generic(
        "h t s",
        "s",
        [(exps, "h, t, s")],
        (step.fill((heads, tokens)), "h, t"),
        "%r = arith.addf %a0, %o : f32",
    )
    weights = step.generic(
        "h t s",
        "",
        [(exps, "h, t, s"), (total, "h, t")],
        (step.empty(scores.shape), "h, t, s"),
        "%r = arith.divf %a0, %a1 : f32",
    )
    context = step.contract(
        "t h d s", "s", (weights, "h, t, s"), (v, "s, h, d"), (step.fill((tokens, heads, size)), "t, h, d")
    )
    w = step.read((full, full), scale=0.3)
    merged = step.reshape(context, (tokens, full), "[[0], [1, 2]]")
    step.assign(
        step.contract("m k n", "n", (merged, "m, n"), (w, "k, n"), (step.fill((tokens, full)), "m, k"))
    )
    step.check(load_target(target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("shape", "k", "stride", "padding"),
    [((1, 32, 32, 8), 3, 2, 1), ((2, 7, 9, 3), 2, 2, 0), ((1, 5, 5, 1), 3, 1, 1)],
)
def test_pooling(shape: tuple[int, ...], k: int, stride: int, padding: int, target: str) -> None:
    step = Step()
    x = step.read(shape)
    n, h, w, c = shape
    oh, ow = (h + 2 * padding - k) // stride + 1, (w + 2 * padding - k) // stride + 1
    window = f"n, oh * {stride} + kh, ow * {stride} + kw, c"
    sizes = (step.empty((k, k)), "kh, kw")
    padded = step.pad(x, padding, number=float("-inf")) if padding else x
    step.assign(
        step.generic(
            "n oh ow c kh kw",
            "kh kw",
            [(padded, window), sizes],
            (step.fill((n, oh, ow, c), float("-inf")), "n, oh, ow, c"),
            "%r = arith.maximumf %a0, %o : f32",
        )
    )
    padded = step.pad(x, padding) if padding else x
    step.assign(
        step.generic(
            "n oh ow c kh kw",
            "kh kw",
            [(padded, window), (step.empty((k, k)), "kh, kw")],
            (step.fill((n, oh, ow, c)), "n, oh, ow, c"),
            "%r = arith.addf %a0, %o : f32",
        )
    )
    step.check(load_target(target))


@pytest.mark.parametrize("target", TARGETS)
def test_slices_and_parts(target: str) -> None:
    step = Step()
    x, y = step.read((12, 10)), step.read((7, 10))

    def double(value: Tensor) -> Tensor:
        return step.generic(
            "i j", "", [(value, "i, j")], (step.empty(value.shape), "i, j"), "%r = arith.addf %a0, %a0 : f32"
        )

    # Made in place and read from there as well; a slice of a slice; every second row.
    twice = double(x)
    joined = step.insert(twice, step.empty((19, 10)), (0, 0), (1, 1))
    joined = step.insert(y, joined, (12, 0), (1, 1))
    step.assign(double(joined))
    step.assign(double(twice))
    rows = step.slice(step.slice(joined, (1, 2), (17, 8), (1, 1)), (2, 1), (7, 3), (2, 2))
    step.assign(double(rows))
    # Slices that are reshaped, assigned, inserted twice, and written over.
    flat = step.reshape(step.slice(joined, (3, 1), (4, 6), (3, 1)), (24,), "[[0, 1]]")
    step.assign(flat)
    step.assign(step.slice(x, (5, 0), (3, 5), (2, 2)))
    part = step.slice(twice, (0, 0), (4, 4), (1, 1))
    grid = step.insert(part, step.fill((9, 11), 2.5), (1, 1), (2, 3))
    grid = step.insert(part, grid, (2, 2), (1, 1))
    step.assign(grid)
    over = step.insert(step.slice(y, (0, 0), (2, 10), (1, 1)), x, (4, 0), (1, 1))
    step.assign(over)
    step.assign(double(over))
    step.check(load_target(target))
