"""The approximate power the stack's step size controller uses.

FastPower.jl (2024) takes the power in Float32 by a rational approximation of log2 (D. Goldberg, Fast
approximate logarithms III, table 2, line 8) and by Julia's Float32 exp2. Its relative error of 1e-5 goes
into every step size, so an exact power would leave the stack's step sequence in the sixth digit: it is
repeated here rounding by rounding, fused multiply-adds included.
"""

import ctypes
import math

import numpy as np
import numpy.typing as npt

_F32 = np.float32
LOG = _LOG_A, _LOG_B, _LOG_C = tuple(float(_F32(x)) for x in (0.338953, 1.8596461, 0.523692))
EXP2 = tuple(
    float(_F32(x))
    for x in (
        1.0,
        0.6931472,
        0.2402265,
        0.05550411,
        0.009618025,
        0.0013333423,
        0.00015469732,
        1.5316464e-5,
    )
)


def _round32(x: float) -> float:
    return ctypes.c_float(x).value  # as numpy's float32, in half the time: every step takes two powers


def _log2(x: float) -> float:
    """log2 of a positive normal Float32. A product of two Float32 is exact in double: one rounding = FMA."""
    significand, exponent = math.frexp(x)  # in [0.5, 1): the stack keeps [0.75, 1.5)
    if significand < 0.75:
        significand, exponent = 2 * significand, exponent - 1
    quotient = _round32(
        _round32(significand * _LOG_A + _LOG_B) / _round32(significand + _LOG_C),
    )
    return _round32((significand - 1.0) * quotient + exponent)


def _exp2(x: float) -> float:
    whole = round(x)  # half to even
    fraction = x - whole
    value = EXP2[-1]
    for coefficient in EXP2[-2::-1]:
        value = _round32(fraction * value + coefficient)
    return math.ldexp(value, whole)


def fastpower(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """x ** y for 0 <= x < inf as FastPower.jl approximates it (relative error about 1e-5)."""
    base = min(_round32(float(x)), 2.0**128)  # type: ignore[arg-type] # which is how the bits of Inf32 read
    if base == 0.0:
        return 0.0
    return _exp2(_round32(_round32(float(y)) * _log2(base)))  # type: ignore[arg-type]
