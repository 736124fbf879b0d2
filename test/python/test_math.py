"""td-expand-math: every binade against float64 on the host, and the cores bit for bit with the host."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from mlir.execution_engine import ExecutionEngine
from mlir.ir import Context, Module
from mlir.runtime import get_ranked_memref_descriptor

from kernel_tools import Call, generic, run_kernels
from traindeeploy.tools import find_program

F32 = np.float32

# Name, float64 reference, largest error in units in the last place.
FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "exp": (np.exp, 1.0),
    "expm1": (np.expm1, 1.6),
    "log": (np.log, 1.0),
    "log1p": (np.log1p, 1.5),
    "tanh": (np.tanh, 3.0),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1.5),
    "erf": (np.vectorize(math.erf, otypes=[np.float64]), 3.0),
}

# The same of powers, by their exponent: even, odd, large, small and broken ones of either sign.
POWERS = {y: 3.5 for y in (1.7, -2.3, 0.3, -0.7, 3.0, 9.0, 12.0, -11.0, 37.5, 0.01)}

# What td-expand-math finds in a body: x Phi(x) and Phi(x) + x phi(x); and e^x for x that is not positive.
DISTRIBUTION = """
  %half = arith.constant 0.5 : f32
  %scale = arith.constant 0.707106769 : f32
  %scaled = arith.mulf %a0, %scale : f32
  %erf = math.erf %scaled : f32
  %phi = math.fma %half, %erf, %half : f32
"""
COMPOSITES = {
    "exp_of_difference": "  %r = math.exp %a0 {train.nonpositive} : f32\n",
    "gelu": DISTRIBUTION + "  %r = arith.mulf %a0, %phi : f32\n",
    "gelu_slope": DISTRIBUTION
    + """
  %minus = arith.constant -0.5 : f32
  %factor = arith.constant 0.398942292 : f32
  %square = arith.mulf %a0, %a0 : f32
  %power = arith.mulf %square, %minus : f32
  %exp = math.exp %power : f32
  %density = arith.mulf %exp, %factor : f32
  %r = math.fma %a0, %density, %phi : f32
""",
}

HOST = """
func.func @apply(%x: memref<?xf32>, %y: memref<?xf32>) attributes {llvm.emit_c_interface} {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %exponent = arith.constant EXPONENT : f32
  %n = memref.dim %x, %zero : memref<?xf32>
  scf.for %i = %zero to %n step %one {
    %a = memref.load %x[%i] : memref<?xf32>
    BODY
    memref.store %b, %y[%i] : memref<?xf32>
  }
  return
}
"""


def on_host(name: str, x: np.ndarray, exponent: float = 0.0) -> np.ndarray:
    """The expansion of a function of %a, by the host's JIT."""
    # fmt: off
    passes = [
        "--td-expand-math", "--convert-scf-to-cf", "--expand-strided-metadata", "--convert-to-llvm",
        "--reconcile-unrealized-casts",
    ]
    # fmt: on
    body = f"%b = math.{name if '%' in name else f'{name} %a'} : f32"
    if name in COMPOSITES:
        body = COMPOSITES[name].replace("%a0", "%a").replace("%r", "%b")
    text = HOST.replace("BODY", body).replace("EXPONENT", repr(exponent))
    done = subprocess.run([str(find_program("td-opt")), *passes], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Context():
        engine = ExecutionEngine(Module.parse(done.stdout), opt_level=2)
        y = np.empty_like(x)
        arrays = [ctypes.pointer(ctypes.pointer(get_ranked_memref_descriptor(array))) for array in (x, y)]
        engine.invoke("apply", *arrays)
    return y


def sample(per_binade: int) -> np.ndarray:
    """Every binade of either sign with random mantissas, its ends, subnormals, zeros, infinities and NaN."""
    rng = np.random.default_rng(3)
    exponent = np.arange(255, dtype=np.uint32)[:, None] << 23
    mantissa = rng.integers(0, 1 << 23, (255, per_binade), dtype=np.uint32)
    mantissa[:, 0], mantissa[:, 1] = 0, (1 << 23) - 1
    positive = (exponent | mantissa).ravel()
    special = np.array([0x7F800000, 0x7FC00000, 0, 1, 0x7F7FFFFF], np.uint32)
    bits = np.concatenate([positive, special])
    return np.concatenate([bits, bits | np.uint32(0x80000000)]).view(F32)


def dense(name: str, count: int) -> np.ndarray:
    """Where the function is neither constant nor trivial."""
    low, high = {"exp": (-105, 90), "expm1": (-20, 90), "log": (0, 4), "log1p": (-1, 4), "rsqrt": (0, 4)}.get(
        name, (-10, 10)
    )
    return np.random.default_rng(4).uniform(low, high, count).astype(F32)


def errors(x: np.ndarray, y: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """In units of the last place of the exact result; zero where both are the same infinity or NaN."""
    with np.errstate(all="ignore"):
        rounded = reference.astype(F32)
        finite = np.isfinite(rounded) & np.isfinite(y)
        ulp = np.spacing(np.abs(np.where(finite, rounded, 1)).astype(F32)).astype(np.float64)
        error = np.where(finite, np.abs(y.astype(np.float64) - reference) / ulp, 0)
        # Beside the overflow threshold either rounding is within the error.
        largest = np.finfo(F32).max
        near = (np.abs(np.where(np.isfinite(rounded), rounded, y)) == largest) & (
            np.isinf(y) != np.isinf(rounded)
        )
        wrong = ~finite & ~near & (np.isnan(y) != np.isnan(rounded))
        wrong |= ~finite & ~near & ~np.isnan(rounded) & (y != rounded)
    return np.where(wrong, np.inf, error)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_over_every_binade(name):
    reference, limit = FUNCTIONS[name]
    count = 200 if name == "erf" else 2000
    x = np.concatenate([sample(count), dense(name, 500 * count)])
    y = on_host(name, x)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
    error = errors(x, y, exact)
    worst = int(np.argmax(error))
    print(f"{name}: {error[worst]:.3f} ulp at {x[worst]!r} of {x.size} points")
    assert error[worst] <= limit, (
        f"{name}({x[worst]!r}) = {y[worst]!r}, exactly {exact[worst]!r}: {error[worst]} ulp"
    )


@pytest.mark.parametrize("exponent", POWERS)
def test_error_of_powers(exponent):
    spread = min(80.0, 80.0 / abs(exponent))
    near = np.exp(np.random.default_rng(5).uniform(-spread, spread, 200_000)).astype(F32)
    x = np.concatenate([sample(1000), near, -near[:1000], np.array([1, -1], F32)])
    y = on_host("powf %a, %exponent", x, exponent)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), float(F32(exponent)))
    error = errors(x, y, exact)
    worst = int(np.argmax(error))
    print(f"x^{exponent}: {error[worst]:.3f} ulp at {x[worst]!r} of {x.size} points")
    assert error[worst] <= POWERS[exponent], (
        f"{x[worst]!r}^{exponent} = {y[worst]!r}, exactly {exact[worst]!r}: {error[worst]} ulp"
    )


def test_error_of_gelu_and_its_slope():
    """In units of 2^-24, of x for GELU: Phi's last place where it is above a half."""
    x = np.concatenate([sample(200), dense("gelu", 300_000)])
    x = x[np.isfinite(x)]
    wide = x.astype(np.float64)
    cumulative = 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(-wide * math.sqrt(0.5))
    with np.errstate(all="ignore"):
        density = np.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
        slope = cumulative + np.where(density > 0, wide * density, 0)
    exact = {"gelu": wide * cumulative, "gelu_slope": slope}
    limits = {"gelu": 1.9, "gelu_slope": 2.3}
    for name, reference in exact.items():
        y = on_host(name, x).astype(np.float64)
        unit = np.abs(wide) if name == "gelu" else np.ones_like(wide)
        # Below, a product is rounded to a subnormal.
        unit = np.maximum(unit, 2.0**-125)
        error = np.abs(y - reference) / unit * 2.0**24
        worst = int(np.argmax(error))
        print(f"{name}: {error[worst]:.3f} at {x[worst]!r} of {x.size} points")
        assert error[worst] <= limits[name], (
            f"{name}({x[worst]!r}) = {y[worst]!r}, exactly {reference[worst]!r}"
        )


def test_exp_of_what_is_not_positive():
    x = np.concatenate([sample(2000), dense("exp", 1_000_000)])
    x = np.append(-np.abs(x[~np.isnan(x)]), F32(0))
    y = on_host("exp_of_difference", x)
    error = errors(x, y, np.exp(x.astype(np.float64)))
    worst = int(np.argmax(error))
    print(f"exp of a difference: {error[worst]:.3f} ulp at {x[worst]!r} of {x.size} points")
    assert error[worst] <= 1.0, f"exp({x[worst]!r}) = {y[worst]!r}"
    assert np.isnan(on_host("exp_of_difference", np.array([0x7FC00000], np.uint32).view(F32)))


def test_gelu_of_what_is_no_ordinary_number():
    x = np.array([np.inf, np.nan, -np.nan, 0.0, -0.0, 3e38, -3e38, 20.0, -20.0], F32)
    y = on_host("gelu", x)
    expected = np.array([np.inf, np.nan, np.nan, 0.0, -0.0, 3e38, -0.0, 20.0, -0.0], F32)
    assert np.array_equal(y, expected, equal_nan=True)
    assert np.array_equal(np.signbit(y)[3:], np.signbit(expected)[3:])
    # As PyTorch has it: 0 times infinity.
    assert np.isnan(on_host("gelu", np.array([-np.inf], F32)))
    assert np.isnan(on_host("gelu_slope", np.array([np.inf, -np.inf, np.nan, -np.nan], F32))).all()
    assert np.array_equal(on_host("gelu_slope", x[3:]), np.array([0.5, 0.5, 1, 0, 1, 0], F32))


@pytest.mark.parametrize("name", ["expm1", "log1p", "tanh", "erf", "rsqrt"])
def test_sign_of_zero(name):
    y = on_host(name, np.array([0.0, -0.0], F32))
    expected = np.array([np.inf, -np.inf] if name == "rsqrt" else [0.0, -0.0], F32)
    assert np.array_equal(y.view(np.uint32), expected.view(np.uint32))


def test_cores_compute_what_the_host_computes():
    calls = []
    for name in [*FUNCTIONS, *COMPOSITES]:
        body = COMPOSITES.get(name, f"  %r = math.{name} %a0 : f32\n") + "  linalg.yield %r : f32"
        kernel = generic(name, ["(i)->(i)", "(i)->(i)"], "p", 1, body)
        for x in sample(7), dense(name, 4000):
            if name == "exp_of_difference":
                x = -np.abs(x[~np.isnan(x)])
            calls.append(Call(kernel, [x, np.zeros_like(x)]))
    run_kernels(calls)
    for every, call in enumerate(calls):
        host, cores = on_host(call.kernel.name, call.tiles[0]), call.results[1]
        numbers = ~np.isnan(host)
        assert np.array_equal(np.isnan(cores), ~numbers), call.kernel.name
        assert np.array_equal(host[numbers].view(np.uint32), cores[numbers].view(np.uint32)), call.kernel.name
        if every % 2 == 0:
            continue  # exceptional numbers take the divider, where there is a quotient
        predicted = call.kernel.predicted([tile.shape for tile in call.tiles])
        assert abs(predicted - call.cycles) <= 0.15 * call.cycles, (
            f"{call.kernel.name}: {call.cycles}, {predicted}"
        )
