"""Kernels on the simulated cores: bit for bit against the same order of operations, and their cycles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernel_tools import Call, Kernel, generic, matmul, run_kernels

F32 = np.float32
RNG = np.random.default_rng(7)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(F32)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c rounded once: the product is exact in 64 bits of mantissa."""
    return (a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)).astype(F32)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a.view(np.uint32), b.view(np.uint32)))


def gemm_reference(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    for k in range(a.shape[1]):
        c = fma(a[:, k : k + 1], b[k : k + 1], c)
    return c


# fmt: off
SHAPES = [
    (1, 1, 1), (5, 3, 2), (7, 13, 17), (16, 8, 128), (1, 128, 128), (128, 1, 128), (1, 640, 24),
    (1, 10, 64), (3, 100, 31), (31, 37, 29), (64, 64, 64), (60, 64, 64), (97, 2, 5),
    (2, 97, 5), (128, 128, 1), (33, 65, 1),
    (1, 300, 1), (300, 1, 1), (9, 9, 3), (16, 128, 64),
]
# fmt: on
ORIENTATIONS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.fixture(scope="module")
def gemm_calls() -> list[tuple[tuple[int, int, int], Call, np.ndarray]]:
    calls = []
    for m, n, k in SHAPES:
        for transpose_a, transpose_b in ORIENTATIONS:
            a, b, c = random(m, k), random(k, n), random(m, n)
            tiles = [a.T.copy() if transpose_a else a, b.T.copy() if transpose_b else b, c]
            call = Call(matmul(transpose_a, transpose_b), tiles)
            calls.append(((m, n, k), call, gemm_reference(a, b, c)))
    run_kernels([call for _, call, _ in calls])
    return calls


def test_gemm_is_exact_in_every_orientation_and_shape(gemm_calls):
    for shape, call, reference in gemm_calls:
        assert same(call.results[2], reference), f"{call.kernel.name} {shape}"
        assert same(call.results[0], call.tiles[0]) and same(call.results[1], call.tiles[1])


def test_gemm_speed(gemm_calls):
    """MAC per cycle over 8 cores, the call included."""
    least = {(64, 64, 64): 2.5, (16, 128, 64): 2.5, (128, 128, 1): 1.5}
    for (m, n, k), call, _ in gemm_calls:
        if (m, n, k) in least:
            assert m * n * k / call.cycles >= least[m, n, k], f"{call.kernel.name} {m}x{n}x{k}: {call.cycles}"


def check_prediction(calls: list[Call]) -> None:
    """Within 10%; 15% for short calls, where chance decides how cores meet in the banks of L1."""
    wrong = []
    for call in calls:
        if (
            call.kernel.name.startswith(("row_max", "max_", "above_", "argmax_"))
            and np.isnan(call.tiles[0]).any()
        ):
            continue  # a block of extrema with a NaN is done again
        predicted = call.kernel.predicted([tile.shape for tile in call.tiles])
        tolerance = 0.1 if call.cycles > 4000 else 0.15
        if call.cycles > 1000 and abs(predicted - call.cycles) > tolerance * call.cycles:
            shapes = " ".join("x".join(map(str, tile.shape)) for tile in call.tiles)
            wrong.append(f"{call.kernel.name} {shapes}: {call.cycles}, predicted {predicted}")
    assert not wrong, "\n".join(wrong)


def test_gemm_cycles_are_predicted(gemm_calls):
    check_prediction([call for _, call, _ in gemm_calls])


def block(*lines: str) -> str:
    return "\n".join(lines)


ZERO = block("%zero = arith.constant 0.0 : f32")
RELU = generic(
    "relu",
    ["(i,j)->(i,j)", "(i,j)->(i,j)"],
    "pp",
    1,
    block("%r = arith.maximumf %a0, %zero : f32", "linalg.yield %r : f32"),
    ZERO,
)
MASK = generic(
    "relu_gradient",
    ["(i,j)->(i,j)"] * 3,
    "pp",
    1,
    block(
        "%c = arith.cmpf ogt, %a0, %zero : f32",
        "%r = arith.select %c, %a1, %zero : f32",
        "linalg.yield %r : f32",
    ),
    ZERO,
)
BIAS = generic(
    "bias",
    ["(i,j)->(i,j)", "(i,j)->(j)", "(i,j)->(i,j)"],
    "pp",
    1,
    block("%r = arith.addf %a0, %a1 : f32", "linalg.yield %r : f32"),
)
SCALE_ROWS = generic(
    "scale_rows",
    ["(i,j)->(i,j)", "(i,j)->(i)", "(i,j)->(i,j)"],
    "pp",
    1,
    block("%r = arith.mulf %a0, %a1 : f32", "linalg.yield %r : f32"),
)
SGD = generic(
    "sgd",
    ["(i,j)->(i,j)", "(i,j)->()", "(i,j)->(i,j)"],
    "pp",
    1,
    block(
        "%n = arith.negf %a1 : f32",
        "%m = math.fma %n, %a0, %a2 : f32",
        "%c = arith.cmpf oeq, %a1, %zero : f32",
        "%r = arith.select %c, %a2, %m : f32",
        "linalg.yield %r : f32",
    ),
    ZERO,
)
RANK_ONE_UPDATE = generic(
    "rank_one_update",
    ["(i,j)->(i)", "(i,j)->(j)", "(i,j)->()", "(i,j)->(i,j)"],
    "pp",
    1,
    block(
        "%g = arith.mulf %a0, %a1 : f32",
        "%s = arith.mulf %g, %a2 : f32",
        "%r = arith.subf %a3, %s : f32",
        "linalg.yield %r : f32",
    ),
)
COLUMN_SUM = generic(
    "column_sum",
    ["(j,i)->(i,j)", "(j,i)->(j)"],
    "pr",
    1,
    block("%r = arith.addf %a1, %a0 : f32", "linalg.yield %r : f32"),
)
ROW_SUM = generic(
    "row_sum",
    ["(i,j)->(i,j)", "(i,j)->(i)"],
    "pr",
    1,
    block("%r = arith.addf %a1, %a0 : f32", "linalg.yield %r : f32"),
)
ROW_MAX = generic(
    "row_max",
    ["(i,j)->(i,j)", "(i,j)->(i)"],
    "pr",
    1,
    block("%r = arith.maximumf %a1, %a0 : f32", "linalg.yield %r : f32"),
)
TRANSPOSE = Kernel(
    "transpose", (2, 2), "  linalg.transpose ins(%t0 : !t0) outs(%t1 : !t1) permutation = [1, 0]"
)
FILL = Kernel("fill", (2,), f"{ZERO}\n  linalg.fill ins(%zero : f32) outs(%t0 : !t0)")
COMPENSATED = generic(
    "compensated",
    ["(i,j)->(i,j)", "(i,j)->()", "(i,j)->()"],
    "rr",
    2,
    block(
        "%y = arith.subf %a0, %a2 : f32",
        "%t = arith.addf %a1, %y : f32",
        "%d = arith.subf %t, %a1 : f32",
        "%c = arith.subf %d, %y : f32",
        "linalg.yield %t, %c : f32, f32",
    ),
)
ONE_HOT = generic(
    "one_hot",
    ["(i,j)->(i)", "(i,j)->(i,j)"],
    "pp",
    1,
    block(
        "%n = linalg.index 1 : index",
        "%m = arith.addi %n, %first : index",
        "%w = arith.index_cast %m : index to i32",
        "%f = arith.sitofp %w : i32 to f32",
        "%c = arith.cmpf oeq, %f, %a0 : f32",
        "%r = arith.select %c, %one, %zero : f32",
        "linalg.yield %r : f32",
    ),
    ZERO + "\n" + block("%one = arith.constant 1.0 : f32"),
)


def sum_along(x: np.ndarray, axis: int, start: np.ndarray) -> np.ndarray:
    total = start
    for part in np.moveaxis(x, axis, 0):
        total = (total + part).astype(F32)
    return total


def compensated(x: np.ndarray, total: np.float32, lost: np.float32) -> tuple[np.float32, np.float32]:
    for value in x.ravel():
        y = F32(value - lost)
        t = F32(total + y)
        lost = F32(F32(t - total) - y)
        total = t
    return total, lost


@pytest.fixture(scope="module")
def generic_calls() -> list[tuple[Call, list[np.ndarray]]]:
    rate, stopped = np.array(0.01, F32), np.array(-0.0, F32)
    calls = []
    for m, n in [(1, 1), (1, 128), (128, 1), (16, 8), (17, 31), (3, 640), (64, 100), (1, 5), (61, 13)]:
        x, y, row, column = random(m, n), random(m, n), random(n), random(m)
        x[0, 0] = -0.0
        if m * n > 4:
            x[-1, -1] = np.nan
            x.flat[1:3] = np.inf, -np.inf
        with np.errstate(invalid="ignore"):
            calls += [
                (Call(RELU, [x, y]), [x, np.where(x <= 0, F32(0), x)]),
                (Call(MASK, [x, y, x]), [x, y, np.where(x > 0, y, F32(0))]),
                (Call(BIAS, [y, row, x]), [y, row, y + row]),
                (Call(SCALE_ROWS, [y, column, x]), [y, column, y * column[:, None]]),
                (Call(SGD, [y, rate, x]), [y, rate, fma(-rate, y, x)]),
                (Call(SGD, [y, stopped, F32(-0.0) * abs(y)]), [y, stopped, F32(-0.0) * abs(y)]),
                (
                    Call(RANK_ONE_UPDATE, [column, row, rate, y]),
                    [column, row, rate, y - (column[:, None] * row) * rate],
                ),
                (Call(COLUMN_SUM, [y, row]), [y, sum_along(y, 0, row)]),
                (Call(ROW_SUM, [y, column]), [y, sum_along(y, 1, column)]),
                (Call(ROW_MAX, [x, column]), [x, np.maximum(column, x.max(axis=1))]),
                (Call(ROW_MAX, [y, column]), [y, np.maximum(column, y.max(axis=1))]),
                (Call(TRANSPOSE, [x, random(n, m)]), [x, x.T]),
                (Call(FILL, [x]), [np.zeros_like(x)]),
            ]
        total, lost = compensated(y, F32(0.5), F32(0))
        calls.append(
            (
                Call(COMPENSATED, [y, np.array(0.5, F32), np.array(0, F32)]),
                [y, np.array(total), np.array(lost)],
            )
        )
        label = (RNG.integers(0, n, m) + 40).astype(F32)
        hot = (np.arange(40, 40 + n)[None] == label[:, None]).astype(F32)
        calls.append((Call(ONE_HOT, [label, x], indices=[40]), [label, hot]))
    run_kernels([call for call, _ in calls])
    return calls


def check_results(calls: list[tuple[Call, list[np.ndarray]]]) -> None:
    for call, expected in calls:
        for result, value in zip(call.results, expected, strict=True):
            numbers = ~np.isnan(value)
            shapes = [tile.shape for tile in call.tiles]
            assert np.array_equal(np.isnan(result), ~numbers), f"{call.kernel.name} {shapes}"
            assert same(result[numbers], value[numbers]), f"{call.kernel.name} {shapes}"


def test_generics_are_exact(generic_calls):
    check_results(generic_calls)


def test_generic_cycles_are_predicted(generic_calls):
    check_prediction([call for call, _ in generic_calls])


# Windows, batches and permutations.

MAC = block("%p = arith.mulf %a0, %a1 : f32", "%r = arith.addf %a2, %p : f32", "linalg.yield %r : f32")


def convolution(stride: int, dilation: int) -> Kernel:
    """Y[n,h,w,o] += X[n, h s + y d, w s + x d, c] W[y,x,c,o]"""
    x = f"(n,h,w,o,y,x,c)->(n,h*{stride}+y*{dilation},w*{stride}+x*{dilation},c)"
    maps = [x, "(n,h,w,o,y,x,c)->(y,x,c,o)", "(n,h,w,o,y,x,c)->(n,h,w,o)"]
    return generic(f"convolution_{stride}_{dilation}", maps, "pppprrr", 1, MAC)


def depthwise(stride: int) -> Kernel:
    x = f"(n,h,w,c,y,x)->(n,h*{stride}+y,w*{stride}+x,c)"
    maps = [x, "(n,h,w,c,y,x)->(y,x,c)", "(n,h,w,c,y,x)->(n,h,w,c)"]
    return generic(f"depthwise_{stride}", maps, "pppprr", 1, MAC)


def filter_gradient(stride: int) -> Kernel:
    x = f"(y,x,c,o,n,h,w)->(n,h*{stride}+y,w*{stride}+x,c)"
    maps = [x, "(y,x,c,o,n,h,w)->(n,h,w,o)", "(y,x,c,o,n,h,w)->(y,x,c,o)"]
    return generic(f"filter_gradient_{stride}", maps, "pppprrr", 1, MAC)


INPUT_GRADIENT = generic(
    "input_gradient",
    ["(n,h,w,c,y,x,o)->(n,h+y,w+x,o)", "(n,h,w,c,y,x,o)->(y,x,c,o)", "(n,h,w,c,y,x,o)->(n,h,w,c)"],
    "pppprrr",
    1,
    MAC,
)
# Channels first: neighbours along the window, too.
CONVOLUTION_1D = generic(
    "convolution_1d",
    ["(n,o,w,c,x)->(n,c,w+x)", "(n,o,w,c,x)->(o,c,x)", "(n,o,w,c,x)->(n,o,w)"],
    "ppprr",
    1,
    MAC,
)


def pooling(name: str, stride: int, combine: str, window: tuple[int, int], cut: bool = False) -> Kernel:
    """A window of the size of the second operand, which is not read; of maxima, those above zero."""
    x = f"(n,h,w,c,y,x)->(n,h*{stride}+y,w*{stride}+x,c)"
    maps = [x, "(n,h,w,c,y,x)->(y,x)", "(n,h,w,c,y,x)->(n,h,w,c)"]
    taken = ["%zero = arith.constant 0.0 : f32", "%c = arith.maximumf %a0, %zero : f32"] if cut else []
    body = block(*taken, f"%r = arith.{combine} %a2, {'%c' if cut else '%a0'} : f32", "linalg.yield %r : f32")
    kernel = generic(f"{name}_{stride}_{window[0]}_{window[1]}", maps, "pppprr", 1, body)
    return replace(kernel, stated={1: window})


def pooling_of_a_part(stride: int, window: tuple[int, int]) -> Kernel:
    """Sums of the windows from the second column on, as many columns as the third operand has elements."""
    maps = [
        f"(n,h,w,c,y,x)->(n,h*{stride}+y,w*{stride}+x+{stride},c)",
        "(n,h,w,c,y,x)->(y,x)",
        "(n,h,w,c,y,x)->(w)",
        "(n,h,w,c,y,x)->(n,h,w+1,c)",
    ]
    body = block("%r = arith.addf %a3, %a0 : f32", "linalg.yield %r : f32")
    kernel = generic(f"part_{stride}_{window[0]}_{window[1]}", maps, "pppprr", 1, body)
    return replace(kernel, stated={1: window})


ARGMAX_POOLING = generic(
    "argmax_pooling",
    [
        "(n,h,w,c,y,x)->(n,h*2+y,w*2+x,c)",
        "(n,h,w,c,y,x)->(y,x)",
        "(n,h,w,c,y,x)->(n,h,w,c)",
        "(n,h,w,c,y,x)->(n,h,w,c)",
    ],
    "pppprr",
    2,
    block(
        "%l = arith.cmpf ogt, %a0, %a2 : f32",
        "%u = arith.cmpf uno, %a0, %a0 : f32",
        "%c = arith.ori %l, %u : i1",
        "%y = linalg.index 4 : index",
        "%x = linalg.index 5 : index",
        "%ten = arith.constant 10 : index",
        "%m = arith.muli %y, %ten : index",
        "%s = arith.addi %m, %x : index",
        "%i = arith.index_cast %s : index to i32",
        "%v = arith.select %c, %a0, %a2 : f32",
        "%j = arith.select %c, %i, %a3 : i32",
        "linalg.yield %v, %j : f32, i32",
    ),
    elements=["f32", "f32", "f32", "i32"],
)


def argmax_pooling(window: tuple[int, int]) -> Kernel:
    return replace(ARGMAX_POOLING, name=f"argmax_pooling_{window[0]}_{window[1]}", stated={1: window})


# The gradient of a gather along rows that are i32 labels.
SAME_LABEL = generic(
    "same_label",
    ["(i,j)->(i)", "(i,j)->(i,j)", "(i,j)->(j)"],
    "rp",
    1,
    block(
        "%n = linalg.index 0 : index",
        "%k = arith.index_cast %n : index to i32",
        "%c = arith.cmpi eq, %a0, %k : i32",
        "%x = arith.select %c, %a1, %zero : f32",
        "%r = arith.addf %a2, %x : f32",
        "linalg.yield %r : f32",
    ),
    ZERO,
    ["i32", "f32", "f32"],
)
INTEGER_ROW_SUM = generic(
    "integer_row_sum",
    ["(i,j)->(i,j)", "(i,j)->(i)"],
    "pr",
    1,
    block("%r = arith.addi %a1, %a0 : i32", "linalg.yield %r : i32"),
    elements=["i32", "i32"],
)
MOMENTS = generic(
    "moments",
    ["(i,j)->(i,j)", "(i,j)->(i)", "(i,j)->(i)"],
    "pr",
    2,
    block(
        "%s = arith.addf %a1, %a0 : f32",
        "%q = arith.mulf %a0, %a0 : f32",
        "%t = arith.addf %a2, %q : f32",
        "linalg.yield %s, %t : f32, f32",
    ),
)
ROW_PRODUCT = generic(
    "row_product",
    ["(i,j)->(i,j)", "(i,j)->(i)"],
    "pr",
    1,
    block("%r = arith.mulf %a0, %a1 : f32", "linalg.yield %r : f32"),
)
COLUMN_MIN_OF_SQUARES = generic(
    "column_min_of_squares",
    ["(j,i)->(i,j)", "(j,i)->(j)"],
    "pr",
    1,
    block("%q = arith.mulf %a0, %a0 : f32", "%r = arith.minimumf %q, %a1 : f32", "linalg.yield %r : f32"),
)
SHIFTED = generic(
    "shifted",
    ["(i,j)->(i+1,j*2+3)", "(i,j)->(0,j)", "(i,j)->(i,j)"],
    "pp",
    1,
    block("%r = arith.subf %a0, %a1 : f32", "linalg.yield %r : f32"),
)


def batched(name: str, a: str, b: str) -> Kernel:
    maps = [f"(h,m,n,k)->({a})", f"(h,m,n,k)->({b})", "(h,m,n,k)->(h,m,n)"]
    return generic(name, maps, "pppr", 1, MAC)


def permutation(order: tuple[int, ...]) -> Kernel:
    """np.transpose(x, order)"""
    dims = "ijklm"[: len(order)]
    source = [dims[order.index(d)] for d in range(len(order))]
    maps = [f"({','.join(dims)})->({','.join(source)})", f"({','.join(dims)})->({','.join(dims)})"]
    return generic(
        "permutation_" + "".join(map(str, order)), maps, "p" * len(order), 1, "linalg.yield %a0 : f32"
    )


def taps(x: np.ndarray, h: int, w: int, y: int, z: int, stride: int, dilation: int = 1) -> np.ndarray:
    """What tap (y, z) of a window sees, for h x w windows."""
    rows = y * dilation + stride * np.arange(h)
    columns = z * dilation + stride * np.arange(w)
    return x[:, rows[:, None], columns]


def larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """NaN if one is, and +0 of two zeros."""
    return np.where((a == 0) & (b == 0), a + b, np.maximum(a, b))


def window_calls() -> list[tuple[Call, list[np.ndarray]]]:
    calls: list[tuple[Call, list[np.ndarray]]] = []
    # n, h, w, o, window, c, stride, dilation
    for n, h, w, o, ky, kx, c, s, d in [
        (1, 1, 1, 1, 1, 1, 1, 1, 1),
        (1, 8, 32, 16, 3, 3, 3, 1, 1),
        (2, 3, 5, 7, 3, 2, 5, 2, 1),
        (1, 4, 8, 16, 3, 3, 16, 2, 1),
        (1, 5, 7, 3, 2, 3, 4, 1, 2),
        (3, 1, 9, 2, 1, 5, 1, 3, 1),
        (1, 13, 4, 8, 3, 3, 8, 1, 1),
    ]:
        x = random(n, (h - 1) * s + (ky - 1) * d + 1, (w - 1) * s + (kx - 1) * d + 1, c)
        f, y = random(ky, kx, c, o), random(n, h, w, o)
        result = y
        for a in range(ky):
            for b in range(kx):
                for k in range(c):
                    result = fma(taps(x, h, w, a, b, s, d)[..., k : k + 1], f[a, b, k], result)
        calls.append((Call(convolution(s, d), [x, f, y]), [x, f, result]))
        if d == 1:
            gradient = f
            for m in range(n):
                for i in range(h):
                    for j in range(w):
                        part = x[m, i * s : i * s + ky, j * s : j * s + kx]
                        gradient = fma(part[..., None], y[m, i, j], gradient)
            calls.append((Call(filter_gradient(s), [x, y, f]), [x, y, gradient]))
            f, y = random(ky, kx, c), random(n, h, w, c)
            start, result = y, y
            for a in range(ky):
                for b in range(kx):
                    result = fma(taps(x, h, w, a, b, s), f[a, b], result)
            calls.append((Call(depthwise(s), [x, f, start]), [x, f, result]))
            bad = x.copy()
            bad.flat[::7] = 0
            bad.flat[3::11] = -0.0
            bad.flat[5::97] = np.nan
            bad.flat[6::89] = -np.inf
            bad.flat[9::101] = np.frombuffer(np.uint32(0xFFC00001).tobytes(), F32)[0]
            shape, low = np.zeros((ky, kx), F32), np.full_like(y, -np.inf)
            total, extreme, clean = start, low, low
            for a in range(ky):
                for b in range(kx):
                    total = (total + taps(x, h, w, a, b, s)).astype(F32)
                    extreme = larger(extreme, taps(bad, h, w, a, b, s))
                    clean = larger(clean, taps(x, h, w, a, b, s))
            sums, maxima = pooling("sum", s, "addf", (ky, kx)), pooling("max", s, "maximumf", (ky, kx))
            calls.append((Call(sums, [x, shape, start]), [x, shape, total]))
            if w > 1:
                columns = np.zeros(w - 1, F32)
                rest = np.concatenate([start[:, :, :1], total[:, :, 1:]], 2)
                part = pooling_of_a_part(s, (ky, kx))
                calls.append((Call(part, [x, shape, columns, start]), [x, shape, columns, rest]))
            above = pooling("above", s, "maximumf", (ky, kx), cut=True)
            for tile, most in [(x, clean), (bad, extreme)]:
                calls.append((Call(maxima, [tile, shape, low]), [tile, shape, most]))
                calls.append(
                    (Call(above, [tile, shape, low]), [tile, shape, larger(most, np.zeros_like(most))])
                )
            if s == 2:
                for tile in (x, bad):
                    best, where = low, np.full(low.shape, -1, np.int32)
                    for a in range(ky):
                        for b in range(kx):
                            tap = taps(tile, h, w, a, b, s)
                            more = (tap > best) | np.isnan(tap)
                            where = np.where(more, np.int32(10 * a + b), where)
                            best = np.where(more, tap, best)
                    tiles = [tile, shape, low, np.full(low.shape, -1, np.int32)]
                    calls.append((Call(argmax_pooling((ky, kx)), tiles), [tile, shape, best, where]))
        if s == 1 and d == 1:
            f, y, dx = random(ky, kx, c, o), random(n, h + ky - 1, w + kx - 1, o), random(n, h, w, c)
            result = dx
            for a in range(ky):
                for b in range(kx):
                    for k in range(o):
                        result = fma(taps(y, h, w, a, b, 1)[..., k : k + 1], f[a, b, :, k], result)
            calls.append((Call(INPUT_GRADIENT, [y, f, dx]), [y, f, result]))
            x, f, y = random(n, c, w + kx - 1), random(o, c, kx), random(n, o, w)
            result = y
            for k in range(c):
                for b in range(kx):
                    result = fma(x[:, None, k, b : b + w], f[None, :, k, b, None], result)
            calls.append((Call(CONVOLUTION_1D, [x, f, y]), [x, f, result]))
    return calls


def shape_calls() -> list[tuple[Call, list[np.ndarray]]]:
    calls: list[tuple[Call, list[np.ndarray]]] = []
    for m, n in [(1, 1), (2, 700), (17, 31), (64, 100), (5, 8), (128, 64)]:
        x, row, column = random(m, n), random(n), random(m)
        labels = RNG.integers(0, m, m).astype(np.int32)
        chosen = np.where(labels[:, None] == np.arange(m)[:, None], x, F32(0))
        calls.append((Call(SAME_LABEL, [labels, x, row]), [labels, x, sum_along(chosen, 0, row)]))
        counts = RNG.integers(-(2**31), 2**31, (m, n)).astype(np.int32)
        total = counts.sum(axis=1, dtype=np.int32)
        calls.append((Call(INTEGER_ROW_SUM, [counts, np.zeros(m, np.int32)]), [counts, total]))
        moments = [sum_along(x, 1, column), sum_along((x * x).astype(F32), 1, column)]
        calls.append((Call(MOMENTS, [x, column, column]), [x, *moments]))
        near = (1 + 0.01 * x).astype(F32)
        product = column
        for j in range(n):
            product = (near[:, j] * product).astype(F32)
        calls.append((Call(ROW_PRODUCT, [near, column]), [near, product]))
        least = np.minimum(row, (x * x).astype(F32).min(axis=0))
        calls.append((Call(COLUMN_MIN_OF_SQUARES, [x, row]), [x, least]))
        wide = random(m + 1, 2 * n + 3)
        calls.append(
            (
                Call(SHIFTED, [wide, row[None], x]),
                [wide, row[None], (wide[1:, 3 : 3 + 2 * n : 2] - row).astype(F32)],
            )
        )
    # fmt: off
    for h, m, n, k in [
        (1, 1, 1, 1), (2, 16, 32, 24), (3, 5, 7, 11), (8, 1, 13, 16), (2, 3, 2, 1), (11, 9, 1, 6),
    ]:
        # fmt: on
        a, b, c = random(h, m, k), random(h, k, n), random(h, m, n)
        result = c
        for i in range(k):
            result = fma(a[:, :, i, None], b[:, None, i], result)
        heads = [a.transpose(1, 0, 2).copy(), b.transpose(2, 0, 1).copy()]
        calls += [
            (Call(batched("batched", "h,m,k", "h,k,n"), [a, b, c]), [a, b, result]),
            (Call(batched("heads", "m,h,k", "n,h,k"), [*heads, c]), [*heads, result]),
        ]
    # fmt: off
    for shape, order in [
        ((64, 128), (1, 0)), ((61, 67), (1, 0)), ((1, 9), (1, 0)), ((3, 2), (1, 0)), ((64, 2, 64), (1, 0, 2)),
        ((2, 64, 64), (0, 2, 1)), ((5, 3, 7), (2, 1, 0)), ((33, 3, 11), (1, 2, 0)),
        ((1, 16, 16, 32), (0, 3, 1, 2)), ((2, 31, 5, 7), (0, 2, 1, 3)), ((2, 3, 4, 5), (3, 2, 1, 0)),
        ((3, 4, 5, 7, 9), (4, 3, 2, 1, 0)),
        ((3, 4, 5, 7, 9), (2, 0, 4, 1, 3)),
    ]:
        # fmt: on
        x = random(*shape)
        result = x.transpose(order).copy()
        calls.append((Call(permutation(order), [x, np.zeros_like(result)]), [x, result]))
    return calls


@pytest.fixture(scope="module")
def nest_calls() -> list[tuple[Call, list[np.ndarray]]]:
    calls = window_calls() + shape_calls()
    run_kernels([call for call, _ in calls])
    return calls


def test_windows_batches_and_permutations_are_exact(nest_calls):
    check_results(nest_calls)


def test_windows_batches_and_permutations_are_predicted(nest_calls):
    check_prediction([call for call, _ in nest_calls])
