"""Functions on floats in LLVM's vectors, where libm's would be called value by value.

TVM's exp, log, tanh and erf, and so sigmoid and others that are made of these, become calls of
functions in LLVM's IR, which are inlined, in the context of `vector_functions`. (As expressions of
TensorIR, they would take TVM's analyser exponential time where one is in the argument of another.)
Polynomials interpolate at Chebyshev nodes; the ratio is a minimax one. NaN stays NaN. The largest
errors in units in the last place, which the tests check: exp 2, log 3, sigmoid and tanh 4, erf 8.
Results below 2^-126 are 0. Those of float16 are computed in float32.
"""

from __future__ import annotations

import functools
import math
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import Op, StringImm, register_op_attr

from mobilenet_tvm.schedules.workloads.dtypes import vector_type

#: (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2, of relative error 1e-8 in e^r.
_EXP = (0.5, 0.16666576266288757, 0.041666556149721146, 0.008363203145563602, 0.0013926213141530752)
#: ln(2) in two parts, of which products of the first with small integers are exact.
_LN2 = (0.693145751953125, 1.428606765330187e-06)
#: Added to a number below 2^22 in magnitude, it leaves the number, rounded, in the last bits.
_MAGIC, _MAGIC_BITS = 12582912.0, (127 + 23) << 23 | 1 << 22
#: Beyond these, e^x is 0 or infinite.
_LOWEST, _HIGHEST = -86.9, 89.0
#: (tanh(x) / x - 1) / x^2 in x^2, for |x| <= 0.625.
_TANH = (-0.3333333432674408, 0.13333304226398468, -0.053959257900714874, 0.02176891826093197,
         -0.008343945257365704, 0.002292744815349579)  # fmt: skip
_TANH_SMALL = 0.625
#: erf(x) / x as a ratio of polynomials in x^2, up to where erf(x) is 1.
_ERF_OVER = (1.128379225730896, 0.18510624766349792, 0.05422146990895271, 0.0038350576069206,
             0.0003759190149139613, 4.58699878436164e-06, -1.2679644001423185e-08)  # fmt: skip
_ERF_UNDER = (1.0, 0.4973795413970947, 0.11384523659944534, 0.015419927425682545,
              0.0012996813748031855, 6.219059287104756e-05)  # fmt: skip
_ERF_END = 3.9
#: ln(m) / s in s^2, where s = (m - 1) / (m + 1), for sqrt(1/2) <= m <= sqrt(2).
_LOG = (2.0, 0.666668176651001, 0.39974746108055115, 0.29927191138267517)
#: The bits of sqrt(1/2), and of the smallest normal number.
_ROOT_BITS, _NORMAL = 0x3F3504F3, 1.17549435e-38
#: Lengths of vectors that have functions; others are divided.
_LENGTHS = (32, 16, 8, 4, 2, 1)


class _Function:
    """Writes a function of a vector in LLVM's IR.

    Parameters
    ----------
    name : str
        The function, without its length.
    lanes : int
        Values of the vector.
    """

    def __init__(self, name: str, lanes: int) -> None:
        self._lanes = lanes
        kind = self._of("float")
        self._lines = [f"define {kind} @{_symbol(name, lanes)}({kind} %x) {{"]

    def _of(self, scalar: str) -> str:
        return scalar if self._lanes == 1 else f"<{self._lanes} x {scalar}>"

    def _all(self, scalar: str, value: str) -> str:
        if self._lanes == 1:
            return value
        return f"<{', '.join([f'{scalar} {value}'] * self._lanes)}>"

    def number(self, value: float) -> str:
        """Return a float32 constant, which LLVM writes as the bits of a double."""
        return self._all("float", f"0x{struct.pack('>d', float(np.float32(value))).hex().upper()}")

    def integer(self, value: int) -> str:
        """Return a constant of 32 bits."""
        return self._all("i32", str(value))

    def _new(self, text: str) -> str:
        self._lines.append(f"  %v{len(self._lines)} = {text}")
        return f"%v{len(self._lines) - 1}"

    def real(self, operation: str, left: str, right: str) -> str:
        """Return the result of a float operation, which may be part of a multiply-add."""
        return self._new(f"{operation} contract {self._of('float')} {left}, {right}")

    def whole(self, operation: str, left: str, right: str) -> str:
        """Return the result of an integer operation."""
        return self._new(f"{operation} {self._of('i32')} {left}, {right}")

    def convert(self, operation: str, value: str, source: str, target: str) -> str:
        """Return a value of another type."""
        return self._new(f"{operation} {self._of(source)} {value} to {self._of(target)}")

    def select(self, comparison: str, left: str, right: str, then: str, otherwise: str) -> str:
        """Return one of two values, by an ordered comparison, which is false for NaN."""
        kind = self._of("float")
        mask = self._new(f"fcmp {comparison} {kind} {left}, {right}")
        return self._new(f"select {self._of('i1')} {mask}, {kind} {then}, {kind} {otherwise}")

    def add(self, left: str, right: str) -> str:
        """Return a sum."""
        return self.real("fadd", left, right)

    def multiply(self, left: str, right: str) -> str:
        """Return a product."""
        return self.real("fmul", left, right)

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """Return the polynomial of some coefficients, the constant one first."""
        result = self.number(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            result = self.add(self.multiply(result, x), self.number(coefficient))
        return result

    def clamp(self, x: str, low: float, high: float) -> str:
        """Return a value within bounds."""
        x = self.select("olt", x, self.number(low), self.number(low), x)
        return self.select("ogt", x, self.number(high), self.number(high), x)

    def end(self, result: str) -> str:
        """Return the function that returns a result."""
        return "\n".join([*self._lines, f"  ret {self._of('float')} {result}", "}"])


def _power(f: _Function, x: str) -> str:
    """Return e^x: 2^n e^r, with an integer n and |r| <= ln(2) / 2; tiny below `_LOWEST`."""
    v = f.clamp(x, _LOWEST, _HIGHEST)
    t = f.add(f.multiply(v, f.number(1 / math.log(2))), f.number(_MAGIC))
    n = f.real("fsub", t, f.number(_MAGIC))
    high, low = (f.multiply(n, f.number(-part)) for part in _LN2)
    r = f.add(low, f.add(high, v))
    square = f.multiply(f.multiply(r, r), f.polynomial(r, _EXP))
    power = f.add(f.add(square, r), f.number(1.0))
    # Half of 2^n, since 2^128 is no number.
    bits = f.whole("sub", f.convert("bitcast", t, "float", "i32"), f.integer(_MAGIC_BITS - 126))
    half = f.convert("bitcast", f.whole("shl", bits, f.integer(23)), "i32", "float")
    return f.multiply(f.add(power, power), half)


def _exp(f: _Function, x: str) -> str:
    """Return e^x."""
    return f.select("olt", x, f.number(_LOWEST), f.number(0.0), _power(f, x))


def _log(f: _Function, x: str) -> str:
    """Return the natural logarithm: that of m 2^n, with sqrt(1/2) <= m < sqrt(2)."""
    bits = f.convert("bitcast", x, "float", "i32")
    # An arithmetic shift rounds down.
    exponent = f.whole("ashr", f.whole("sub", bits, f.integer(_ROOT_BITS)), f.integer(23))
    part = f.whole("sub", bits, f.whole("shl", exponent, f.integer(23)))
    m = f.convert("bitcast", part, "i32", "float")
    n = f.convert("sitofp", exponent, "i32", "float")
    s = f.real("fdiv", f.add(m, f.number(-1.0)), f.add(m, f.number(1.0)))
    high, low = (f.multiply(n, f.number(part)) for part in _LN2)
    fraction = f.multiply(s, f.polynomial(f.multiply(s, s), _LOG))
    logarithm = f.add(high, f.add(low, fraction))
    negative, zero = f.number(math.nan), f.number(-math.inf)
    none = f.select("olt", x, f.number(0.0), negative, zero)
    found = f.select("olt", x, f.number(_NORMAL), none, logarithm)
    # Infinity and NaN are their own.
    return f.select("olt", x, f.number(math.inf), found, x)


def _tanh(f: _Function, x: str) -> str:
    """Return the hyperbolic tangent: 1 - 2 / (e^2x + 1), and near 0 a polynomial."""
    one = f.number(1.0)
    share = f.real("fdiv", f.number(-2.0), f.add(_power(f, f.add(x, x)), one))
    large, square = f.add(one, share), f.multiply(x, x)
    cube = f.multiply(f.multiply(x, square), f.polynomial(square, _TANH))
    small, end = f.add(x, cube), f.number(_TANH_SMALL**2)
    return f.select("olt", square, end, small, large)


def _erf(f: _Function, x: str) -> str:
    """Return the error function."""
    near = f.clamp(x, -_ERF_END, _ERF_END)
    square = f.multiply(near, near)
    over = f.multiply(near, f.polynomial(square, _ERF_OVER))
    return f.real("fdiv", over, f.polynomial(square, _ERF_UNDER))


_FUNCTIONS: dict[str, Callable[[_Function, str], str]] = {
    "exp": _exp,
    "log": _log,
    "tanh": _tanh,
    "erf": _erf,
}


@functools.cache
def source() -> str:
    """Return all functions in LLVM's IR."""
    parts = []
    for name, write in _FUNCTIONS.items():
        for lanes in _LENGTHS:
            function = _Function(name, lanes)
            parts.append(function.end(write(function, "%x")))
    return "\n".join(parts)


@contextmanager
def vector_functions(mod: tvm.IRModule) -> Iterator[tvm.IRModule]:
    """Lower the functions for LLVM, in this thread and context only.

    Parameters
    ----------
    mod : IRModule
        What is to be compiled.

    Yields
    ------
    IRModule
        The module with the functions, in LLVM's IR.
    """
    functions = dict(mod.functions.items())
    kernels = [name for name, func in functions.items() if isinstance(func, tirx.PrimFunc)]
    # They are for the whole module. LLVM drops those that nothing calls, sooner than a search of
    # TensorIR would find that nothing does.
    for name in kernels[:1]:
        text = StringImm(source())
        body = tirx.AttrStmt(text, "pragma_import_llvm", text, functions[name].body)
        functions[name] = functions[name].with_body(body)
        mod = tvm.IRModule(functions, attrs=mod.attrs)
    _state.active = True
    try:
        yield mod
    finally:
        _state.active = False


class _State(threading.local):
    """Whether this thread is in a context of `vector_functions`."""

    active = False


_state = _State()


def _symbol(name: str, lanes: int) -> str:
    return f"mobilenet_tvm_{name}_{lanes}"


def _register(name: str) -> None:
    """Have TVM lower an operator to a call for LLVM."""
    op = Op.get(f"tirx.{name}")
    before = op.get_attr("llvm.FLowerIntrinsic") or op.get_attr("default.FLowerIntrinsic")
    vectors = bool(op.get_attr("TVectorizable"))

    def lower(call: tirx.Call) -> Any:
        kind, _, lanes = str(call.ty).partition("x")
        (x,), count = call.args, int(lanes or 1)
        if _state.active and kind == "float16":
            wide = vector_type("float32", count)
            return lower(tirx.call_intrin(wide, op, x.astype(wide))).astype(str(call.ty))
        ours = _state.active and kind == "float32"
        if ours and count in _LENGTHS:
            return tirx.call_pure_extern(str(call.ty), _symbol(name, count), x)
        if count == 1 or (vectors and not ours):
            return before(call)
        # A vector of another length, or of a type whose function takes one value.
        values, first = [], 0
        for length in _LENGTHS if ours else (1,):
            while count - first >= length:
                part = tirx.Shuffle([x], list(range(first, first + length)))
                values.append(lower(tirx.call_intrin(vector_type(kind, length), op, part)))
                first += length
        return tirx.Shuffle(values, list(range(count)))

    register_op_attr(op.name, "llvm.FLowerIntrinsic", lower, level=_LEVEL)
    register_op_attr(op.name, "TVectorizable", True, level=_LEVEL)


#: Above that of TVM's own rules.
_LEVEL = 20

for _name in _FUNCTIONS:
    _register(_name)
