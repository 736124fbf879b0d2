"""Every floating-point instruction against exact rational arithmetic, in every rounding mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from sim_tools import DUMP, run
from traindeeploy.sim import SimulationError

NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM = range(5)


@dataclass(frozen=True)
class Format:
    """A binary interchange format."""

    exponent: int
    mantissa: int

    @property
    def width(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def emax(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def emin(self) -> int:
        return 1 - self.emax

    @property
    def sign(self) -> int:
        return 1 << (self.width - 1)

    @property
    def inf(self) -> int:
        return ((1 << self.exponent) - 1) << self.mantissa

    @property
    def nan(self) -> int:
        return self.inf | 1 << (self.mantissa - 1)

    def is_nan(self, v: int) -> bool:
        return v & ~self.sign > self.inf

    def is_signaling(self, v: int) -> bool:
        return self.is_nan(v) and not v >> (self.mantissa - 1) & 1

    def is_inf(self, v: int) -> bool:
        return v & ~self.sign == self.inf

    def value(self, v: int) -> Fraction:
        """The exact value of a finite number."""
        e, m = v >> self.mantissa & ((1 << self.exponent) - 1), v & ((1 << self.mantissa) - 1)
        m, e = (m | 1 << self.mantissa, e) if e else (m, 1)
        return Fraction(-m if v & self.sign else m) * Fraction(2) ** (e - self.emax - self.mantissa)


S, H = Format(8, 23), Format(5, 10)


def rounded(exact: Fraction, rm: int, negative: bool) -> int:
    whole = exact.numerator // exact.denominator
    rest = exact - whole
    half = Fraction(1, 2)
    up = {
        RNE: rest > half or (rest == half and whole & 1),
        RTZ: False,
        RDN: rest > 0 and negative,
        RUP: rest > 0 and not negative,
        RMM: rest >= half,
    }[rm]
    return whole + bool(up)


def encode(exact: Fraction, f: Format, rm: int, zero_sign: bool = False) -> tuple[int, int]:
    """Bits and flags of an exact value rounded to a format."""
    if exact == 0:
        return (f.sign if zero_sign else 0), 0
    negative, v = exact < 0, abs(exact)
    sign = f.sign if negative else 0
    e = v.numerator.bit_length() - v.denominator.bit_length()
    if Fraction(2) ** e > v:
        e -= 1
    unit = Fraction(2) ** (max(e, f.emin) - f.mantissa)
    n = rounded(v / unit, rm, negative)
    flags = NX if n * unit != v else 0
    free = Fraction(2) ** (e - f.mantissa)
    if rounded(v / free, rm, negative) * free < Fraction(2) ** f.emin and flags:
        flags |= UF
    result = n * unit
    if result >= Fraction(2) ** (f.emax + 1):
        to_inf = rm in (RNE, RMM) or (rm == RUP and not negative) or (rm == RDN and negative)
        return sign | (f.inf if to_inf else f.inf - 1), OF | NX
    if n < 1 << f.mantissa:
        return sign | n, flags
    exponent = max(e, f.emin) + (n >> (f.mantissa + 1))
    mantissa = n >> (n >> (f.mantissa + 1)) & ((1 << f.mantissa) - 1)
    return sign | (exponent + f.emax) << f.mantissa | mantissa, flags


def nan_of(f: Format, *operands: int) -> tuple[int, int]:
    return f.nan, NV if any(f.is_signaling(v) for v in operands) else 0


def fma(f: Format, a: int, b: int, c: int, rm: int) -> tuple[int, int]:
    product_invalid = (f.is_inf(a) and b & ~f.sign == 0) or (f.is_inf(b) and a & ~f.sign == 0)
    if any(map(f.is_nan, (a, b, c))) or product_invalid:
        return f.nan, NV if product_invalid else nan_of(f, a, b, c)[1]
    sign = (a ^ b) & f.sign
    if f.is_inf(a) or f.is_inf(b):
        return (f.nan, NV) if f.is_inf(c) and (c & f.sign) != sign else (sign | f.inf, 0)
    if f.is_inf(c):
        return c, 0
    product_negative, c_negative = bool(sign), bool(c & f.sign)
    zero = product_negative if product_negative == c_negative else rm == RDN
    return encode(f.value(a) * f.value(b) + f.value(c), f, rm, zero)


def add(f: Format, a: int, b: int, rm: int) -> tuple[int, int]:
    # a * 1 + b, whose product is never invalid
    return fma(f, a, f.emax << f.mantissa, b, rm)


def mul(f: Format, a: int, b: int, rm: int) -> tuple[int, int]:
    sign = (a ^ b) & f.sign
    if f.is_nan(a) or f.is_nan(b):
        return nan_of(f, a, b)
    return fma(f, a, b, sign, rm)  # a zero of the product's sign


def div(f: Format, a: int, b: int, rm: int) -> tuple[int, int]:
    if f.is_nan(a) or f.is_nan(b):
        return nan_of(f, a, b)
    sign = (a ^ b) & f.sign
    zero_a, zero_b = a & ~f.sign == 0, b & ~f.sign == 0
    if (f.is_inf(a) and f.is_inf(b)) or (zero_a and zero_b):
        return f.nan, NV
    if f.is_inf(a):
        return sign | f.inf, 0
    if f.is_inf(b):
        return sign, 0
    if zero_b:
        return sign | f.inf, DZ
    return encode(f.value(a) / f.value(b), f, rm, bool(sign))


def sqrt(f: Format, a: int, rm: int) -> tuple[int, int]:
    if f.is_nan(a):
        return nan_of(f, a)
    if a & ~f.sign == 0:
        return a, 0
    if a & f.sign:
        return f.nan, NV
    if f.is_inf(a):
        return a, 0
    scaled = f.value(a) * Fraction(4) ** 200
    assert scaled.denominator == 1
    root = math.isqrt(scaled.numerator)
    sticky = Fraction(0) if root * root == scaled.numerator else Fraction(1, 2)
    return encode((root + sticky) / Fraction(2) ** 200, f, rm)


def to_int(f: Format, a: int, signed: bool, rm: int) -> tuple[int, int]:
    low, high = (-(1 << 31), (1 << 31) - 1) if signed else (0, (1 << 32) - 1)
    if f.is_nan(a):
        return high & 0xFFFFFFFF, NV
    if f.is_inf(a):
        return (low if a & f.sign else high) & 0xFFFFFFFF, NV
    v = f.value(a)
    n = rounded(abs(v), rm, v < 0) * (-1 if v < 0 else 1)
    if not low <= n <= high:
        return (low if n < low else high) & 0xFFFFFFFF, NV
    return n & 0xFFFFFFFF, NX if n != v else 0


def from_int(f: Format, a: int, signed: bool, rm: int) -> tuple[int, int]:
    return encode(Fraction(a - (1 << 32) if signed and a >> 31 else a), f, rm)


def convert(source: Format, f: Format, a: int, rm: int) -> tuple[int, int]:
    if source.is_nan(a):
        return f.nan, NV if source.is_signaling(a) else 0
    sign = f.sign if a & source.sign else 0
    if source.is_inf(a):
        return sign | f.inf, 0
    return encode(source.value(a), f, rm, bool(sign))


def compare(f: Format, a: int, b: int, kind: str) -> tuple[int, int]:
    if f.is_nan(a) or f.is_nan(b):
        return 0, NV if kind != "feq" else nan_of(f, a, b)[1]

    def order(v: int) -> Fraction:
        return Fraction(2) ** 200 * (-1 if v & f.sign else 1) if f.is_inf(v) else f.value(v)

    x, y = order(a), order(b)
    return int({"feq": x == y, "flt": x < y, "fle": x <= y}[kind]), 0


def min_max(f: Format, a: int, b: int, largest: bool) -> tuple[int, int]:
    flags = nan_of(f, a, b)[1]
    if f.is_nan(a) or f.is_nan(b):
        return (f.nan if f.is_nan(a) and f.is_nan(b) else b if f.is_nan(a) else a), flags

    def order(v: int) -> int:  # as sign and magnitude, -0 below +0
        return -(v & ~f.sign) - 1 if v & f.sign else v

    return (max if largest else min)(a, b, key=order), flags


def classify(f: Format, a: int) -> int:
    negative, magnitude = bool(a & f.sign), a & ~f.sign
    if f.is_nan(a):
        return 1 << 8 if f.is_signaling(a) else 1 << 9
    if f.is_inf(a):
        return 1 << 0 if negative else 1 << 7
    if magnitude == 0:
        return 1 << 3 if negative else 1 << 4
    if magnitude < 1 << f.mantissa:
        return 1 << 2 if negative else 1 << 5
    return 1 << 1 if negative else 1 << 6


Reference = Callable[[int, int, int, int], tuple[int, int]]  # a, b, c, rounding mode


def instructions(f: Format, suffix: str) -> dict[str, tuple[str, Reference, bool]]:
    """By name: the instruction on a3, a4, a5 into a6, what it does, whether it rounds."""
    s = f.sign
    table: dict[str, tuple[str, Reference, bool]] = {
        "fadd": ("a6, a3, a4", lambda a, b, c, rm: add(f, a, b, rm), True),
        "fsub": ("a6, a3, a4", lambda a, b, c, rm: add(f, a, b ^ s, rm), True),
        "fmul": ("a6, a3, a4", lambda a, b, c, rm: mul(f, a, b, rm), True),
        "fdiv": ("a6, a3, a4", lambda a, b, c, rm: div(f, a, b, rm), True),
        "fsqrt": ("a6, a3", lambda a, b, c, rm: sqrt(f, a, rm), True),
        "fmadd": ("a6, a3, a4, a5", lambda a, b, c, rm: fma(f, a, b, c, rm), True),
        "fmsub": ("a6, a3, a4, a5", lambda a, b, c, rm: fma(f, a, b, c ^ s, rm), True),
        "fnmsub": ("a6, a3, a4, a5", lambda a, b, c, rm: fma(f, a ^ s, b, c, rm), True),
        "fnmadd": ("a6, a3, a4, a5", lambda a, b, c, rm: fma(f, a ^ s, b, c ^ s, rm), True),
        "fsgnj": ("a6, a3, a4", lambda a, b, c, rm: (a & ~s | b & s, 0), False),
        "fsgnjn": ("a6, a3, a4", lambda a, b, c, rm: (a & ~s | ~b & s, 0), False),
        "fsgnjx": ("a6, a3, a4", lambda a, b, c, rm: (a ^ b & s, 0), False),
        "fmin": ("a6, a3, a4", lambda a, b, c, rm: min_max(f, a, b, False), False),
        "fmax": ("a6, a3, a4", lambda a, b, c, rm: min_max(f, a, b, True), False),
        "feq": ("a6, a3, a4", lambda a, b, c, rm: compare(f, a, b, "feq"), False),
        "flt": ("a6, a3, a4", lambda a, b, c, rm: compare(f, a, b, "flt"), False),
        "fle": ("a6, a3, a4", lambda a, b, c, rm: compare(f, a, b, "fle"), False),
        "fclass": ("a6, a3", lambda a, b, c, rm: (classify(f, a), 0), False),
    }
    table = {f"{name}.{suffix}": entry for name, entry in table.items()}
    table[f"fcvt.w.{suffix}"] = ("a6, a3, dyn", lambda a, b, c, rm: to_int(f, a, True, rm), True)
    table[f"fcvt.wu.{suffix}"] = ("a6, a3, dyn", lambda a, b, c, rm: to_int(f, a, False, rm), True)
    return table


# Sources that are integers, or of the other format, take the operand whole.
CONVERSIONS: dict[str, tuple[str, Reference, Format]] = {
    "fcvt.s.w": ("a6, a3, dyn", lambda a, b, c, rm: from_int(S, a, True, rm), S),
    "fcvt.s.wu": ("a6, a3, dyn", lambda a, b, c, rm: from_int(S, a, False, rm), S),
    "fcvt.h.w": ("a6, a3, dyn", lambda a, b, c, rm: from_int(H, a, True, rm), H),
    "fcvt.h.wu": ("a6, a3, dyn", lambda a, b, c, rm: from_int(H, a, False, rm), H),
    "fcvt.s.h": ("a6, a3", lambda a, b, c, rm: convert(H, S, a & 0xFFFF, rm), S),
    "fcvt.h.s": ("a6, a3, dyn", lambda a, b, c, rm: convert(S, H, a, rm), H),
}


@cache
def operands(f: Format, count: int) -> list[tuple[int, int, int]]:
    """All pairs of the special values, then random bits, close magnitudes and cancellations."""
    random = np.random.default_rng(f.width)
    one = f.emax << f.mantissa
    special = [0, 1, (1 << f.mantissa) - 1, 1 << f.mantissa, one, one + 1, f.inf - 1, f.inf]
    special += [f.nan, f.inf + 1, f.nan + 5]
    special += [v | f.sign for v in special]
    result = [
        (a, b, special[(i * 7 + j) % len(special)])
        for i, a in enumerate(special)
        for j, b in enumerate(special)
    ]
    while len(result) < count:
        a, b, c = (int(v) for v in random.integers(0, 1 << f.width, 3))
        kind = len(result) % 4
        if kind == 1:  # products and sums near one another
            a, b, c = (v & ~f.inf | one + ((v % 5) << f.mantissa) for v in (a, b, c))
        elif kind == 2:  # c is close to minus the product
            a, b = (v & ~f.inf | one + ((v % 3) << f.mantissa) for v in (a, b))
            c = encode(f.value(a) * f.value(b), f, RNE)[0] ^ f.sign ^ (c & 3)
        elif kind == 3:  # results in the subnormal range
            a = a & ~f.inf | ((a % 4) << f.mantissa)
            b = b & ~f.inf | one - ((b % 4) << f.mantissa)
            c = c & ~f.inf | ((c % 3) << f.mantissa)
        result.append((a, b, c))
    return result


INPUT, OUTPUT = 0x1C080000, 0x1C100000


def execute(
    tmp_path, codes: list[str], triples: list[tuple[int, int, int]], portable: bool = False
) -> np.ndarray:
    """Result and flags [instruction, rounding mode, operands, 2] of running each instruction."""
    np.array(triples, np.uint32).tofile(tmp_path / "in.bin")
    loops = "".join(
        f"""
  li s3, 0
rounding_{i}:
  csrw frm, s3
  li a1, {INPUT}
  li a2, {len(triples)}
1:lw a3, 0(a1)
  lw a4, 4(a1)
  lw a5, 8(a1)
  csrw fflags, x0
  {code}
  csrr a7, fflags
  sw a6, 0(s2)
  sw a7, 4(s2)
  addi a1, a1, 12
  addi s2, s2, 8
  addi a2, a2, -1
  bnez a2, 1b
  addi s3, s3, 1
  li t0, 5
  bne s3, t0, rounding_{i}
"""
        for i, code in enumerate(codes)
    )
    size = len(codes) * 5 * len(triples) * 8
    source = f"""
main:
  li s2, {OUTPUT}
  la a1, open_in
  li a0, 1
  call semihost
  la a1, read_in
  sw a0, 0(a1)
  li a0, 6
  call semihost
  {loops}
  li a1, {OUTPUT}
  li a2, {size}
{DUMP}
  .data
  .balign 4
open_in: .word in_name, 1, 6
read_in: .word 0, {INPUT}, {len(triples) * 12}
in_name: .asciz "in.bin"
"""
    assert run(source, host_only=True, workdir=tmp_path, portable=portable).exit_code == 0
    raw = np.fromfile(tmp_path / "out.bin", np.uint32)
    return raw.reshape(len(codes), 5, len(triples), 2)


def check(f: Format, table, results, triples) -> None:
    wrong = []
    mask = (1 << f.width) - 1
    for (name, (_, reference, rounds)), per_mode in zip(table.items(), results, strict=True):
        integer = name.startswith(("fcvt.w", "feq", "flt", "fle", "fclass"))
        for rm in range(5 if rounds else 1):
            for (a, b, c), (got, flags) in zip(triples, per_mode[rm].tolist(), strict=True):
                expected, raised = reference(a & mask, b & mask, c & mask, rm)
                if not integer and f is H and expected & H.sign:
                    expected |= 0xFFFF0000  # a half is sign-extended
                if (got, flags) != (expected, raised):
                    wrong.append(
                        f"{name} rm {rm}: {a:x} {b:x} {c:x} -> {got:x}/{flags:x}, not {expected:x}/{raised:x}"
                    )
    assert not wrong, f"{len(wrong)} wrong\n" + "\n".join(wrong[:10])


@pytest.mark.parametrize(("f", "suffix"), [(S, "s"), (H, "h")], ids=["single", "half"])
def test_arithmetic(tmp_path, f: Format, suffix: str) -> None:
    table = instructions(f, suffix)
    # The upper half of a register that holds a half is ignored.
    junk = 0 if f is S else 0x5A5A0000
    triples = [(a | junk, b | junk, c | junk) for a, b, c in operands(f, 900)]
    results = execute(tmp_path, [f"{name} {args}" for name, (args, _, _) in table.items()], triples)
    check(f, table, results, triples)


def test_host_without_fused_multiply_add(tmp_path) -> None:
    table = {name: entry for name, entry in instructions(S, "s").items() if "m" in name[:6]}
    triples = operands(S, 1200)
    results = execute(tmp_path, [f"{name} {args}" for name, (args, _, _) in table.items()], triples, True)
    check(S, table, results, triples)


def test_conversions(tmp_path) -> None:
    random = np.random.default_rng(3)
    edges = [
        0,
        1,
        2,
        0x7FFFFFFF,
        0x80000000,
        0x80000001,
        0xFFFFFFFF,
        0xFFFFFF,
        0x1000001,
        0x7FFFFFC0,
        65504,
        65520,
    ]
    sources = edges + [a for a, _, _ in operands(S, 700)] + [a for a, _, _ in operands(H, 300)]
    sources += [
        int(v) >> int(n)
        for v, n in zip(random.integers(0, 1 << 32, 300), random.integers(0, 32, 300), strict=True)
    ]
    # Singles around every boundary of half, where a conversion rounds.
    sources += [int(v) for v in (np.float32(2.0) ** np.arange(-27, 18, dtype=np.float32)).view(np.uint32)]
    triples = [(a, 0, 0) for a in sources]
    results = execute(tmp_path, [f"{name} {args}" for name, (args, _, _) in CONVERSIONS.items()], triples)
    wrong = []
    for (name, (_, reference, f)), per_mode in zip(CONVERSIONS.items(), results, strict=True):
        for rm in range(5):
            for a, (got, flags) in zip(sources, per_mode[rm].tolist(), strict=True):
                expected, raised = reference(a, 0, 0, rm)
                if f is H and expected & H.sign:
                    expected |= 0xFFFF0000
                if (got, flags) != (expected, raised):
                    wrong.append(f"{name} rm {rm}: {a:x} -> {got:x}/{flags:x}, not {expected:x}/{raised:x}")
    assert not wrong, f"{len(wrong)} wrong\n" + "\n".join(wrong[:10])


def vector_code(f7: int, f3: int, source: str = "a4") -> str:
    """An Xfvec instruction that starts from the accumulator a5."""
    return f"mv a6, a5\n  .insn r 0x33, {f3}, {f7}, a6, a3, {source}"


def test_vectors(tmp_path) -> None:
    def lanes(function, replicate: bool = False) -> Reference:
        def both(a: int, b: int, c: int, rm: int) -> tuple[int, int]:
            low, low_flags = function(a & 0xFFFF, b & 0xFFFF, c & 0xFFFF, rm)
            high, high_flags = function(a >> 16, b & 0xFFFF if replicate else b >> 16, c >> 16, rm)
            return low | high << 16, low_flags | high_flags

        return both

    def dot(a: int, b: int, c: int, rm: int) -> tuple[int, int]:
        a0, b0, a1, b1 = (convert(H, S, v, RNE) for v in (a & 0xFFFF, b & 0xFFFF, a >> 16, b >> 16))
        flags = a0[1] | b0[1] | a1[1] | b1[1]
        product, raised = mul(S, a0[0], b0[0], RNE)
        total, raised_by_fma = fma(S, a1[0], b1[0], product, RNE)
        result, raised_by_add = add(S, c, total, RNE)
        return result, flags | raised | raised_by_fma | raised_by_add

    def pack(a: int, b: int, c: int, rm: int) -> tuple[int, int]:
        low, high = convert(S, H, a, rm), convert(S, H, b, rm)
        return low[0] | high[0] << 16, low[1] | high[1]

    table: dict[str, tuple[str, Reference]] = {
        "vfadd.h": (vector_code(0x41, 2), lanes(lambda a, b, c, rm: add(H, a, b, rm))),
        "vfadd.r.h": (vector_code(0x41, 6), lanes(lambda a, b, c, rm: add(H, a, b, rm), True)),
        "vfsub.h": (vector_code(0x42, 2), lanes(lambda a, b, c, rm: add(H, a, b ^ H.sign, rm))),
        "vfmul.h": (vector_code(0x43, 2), lanes(lambda a, b, c, rm: mul(H, a, b, rm))),
        "vfdiv.h": (vector_code(0x44, 2), lanes(lambda a, b, c, rm: div(H, a, b, rm))),
        "vfmin.h": (vector_code(0x45, 2), lanes(lambda a, b, c, rm: min_max(H, a, b, False))),
        "vfmax.h": (vector_code(0x46, 2), lanes(lambda a, b, c, rm: min_max(H, a, b, True))),
        "vfsqrt.h": (vector_code(0x47, 2, "x0"), lanes(lambda a, b, c, rm: sqrt(H, a, rm))),
        "vfmac.h": (vector_code(0x48, 2), lanes(lambda a, b, c, rm: fma(H, a, b, c, rm))),
        "vfmac.r.h": (vector_code(0x48, 6), lanes(lambda a, b, c, rm: fma(H, a, b, c, rm), True)),
        "vfmre.h": (vector_code(0x49, 2), lanes(lambda a, b, c, rm: fma(H, a ^ H.sign, b, c, rm))),
        "vfsgnj.h": (vector_code(0x4D, 2), lanes(lambda a, b, c, rm: (a & 0x7FFF | b & 0x8000, 0))),
        "vfsgnjn.h": (vector_code(0x4E, 2), lanes(lambda a, b, c, rm: (a & 0x7FFF | ~b & 0x8000, 0))),
        "vfsgnjx.h": (vector_code(0x4F, 2), lanes(lambda a, b, c, rm: (a ^ b & 0x8000, 0))),
        "vfdotpex.s.h": (vector_code(0x4B, 0), dot),
        "vfcpka.h.s": (vector_code(0x58, 2), pack),
    }
    halves = operands(H, 700)
    triples = [
        (a | x << 16, b | y << 16, c | z << 16)
        for (a, b, c), (x, y, z) in zip(halves, halves[::-1], strict=True)
    ] + operands(S, 500)
    results = execute(tmp_path, [code for code, _ in table.values()], triples)
    wrong = []
    for (name, (_, reference)), per_mode in zip(table.items(), results, strict=True):
        for rm in (RNE, RUP):
            for (a, b, c), (got, flags) in zip(triples, per_mode[rm].tolist(), strict=True):
                expected, raised = reference(a, b, c, rm)
                if (got, flags) != (expected, raised):
                    wrong.append(
                        f"{name} rm {rm}: {a:x} {b:x} {c:x} -> {got:x}/{flags:x}, not {expected:x}/{raised:x}"
                    )
    assert not wrong, f"{len(wrong)} wrong\n" + "\n".join(wrong[:10])


def test_rounding_mode_of_the_instruction(tmp_path) -> None:
    """A mode written in the instruction wins over frm."""
    triples = [(0x3F800001, 0x33800000, 0)]  # just above one, plus half an ulp
    results = execute(
        tmp_path, [f"fadd.s a6, a3, a4, {m}" for m in ("rne", "rtz", "rdn", "rup", "rmm")], triples
    )
    expected = [add(S, *triples[0][:2], rm)[0] for rm in range(5)]
    for rm, want in enumerate(expected):
        assert (results[rm, :, 0, 0] == want).all()


def test_flags_are_not_read_by_code_in_data() -> None:
    """The simulator keeps flags only for programs whose code can ask for them."""
    source = """
main:
  la t0, code
  jr t0
  .data
code:
  .word 0x00102573  # csrr a0, fflags
"""
    with pytest.raises(SimulationError, match="code that the program does not bring along"):
        run(source)
