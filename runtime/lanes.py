"""Several float64 lanes at once, as LLVM's vectors: loops over them need no vectorizer, nor hints for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from stepspec.compilation import intrinsic

WIDTH = 8

_WIDE = ir.VectorType(ir.DoubleType(), WIDTH)

# Takes (builder, lanes, terms).
_Fold = Callable[[Any, Any, Any], Any]


def add(builder: Any, lanes: Any, terms: Any) -> Any:
    """Return (in LLVM) the sums."""
    return builder.fadd(lanes, terms)


def add_square(builder: Any, lanes: Any, terms: Any) -> Any:
    """Return (in LLVM) the sums with the squares."""
    return builder.fadd(lanes, builder.fmul(terms, terms))


def add_exact_square(builder: Any, lanes: Any, terms: Any) -> Any:
    """Return (in LLVM) the same of terms that were float32: float64 holds their squares exactly."""
    # so that rounding once, in one instruction, gives the same bits
    square = builder.fmul(terms, terms, flags=("contract",))
    return builder.fadd(lanes, square, flags=("contract",))


def larger(builder: Any, lanes: Any, terms: Any) -> Any:
    """Return (in LLVM) the larger ones: NaN if one is NaN, of equal ones (zeros) the term."""
    above = builder.fcmp_ordered(">", lanes, terms)
    nan = builder.fcmp_unordered("uno", lanes, lanes)
    return builder.select(builder.or_(above, nan), lanes, terms)


def folder(fold: _Fold, fold_widened: _Fold | None = None) -> Callable[..., None]:
    """Return `take(lanes, terms)`: WIDTH terms, widened, are folded into as many lanes.

    `lanes` is a pointer to float64, `terms` one to float32 or float64. Of float32, `fold_widened` gives the
    bits of `fold`.
    """

    @intrinsic
    def take(typing: Any, lanes: Any, terms: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = context.get_data_type(terms.dtype)
            place = builder.bitcast(arguments[0], _WIDE.as_pointer())
            source = builder.bitcast(arguments[1], ir.VectorType(number, WIDTH).as_pointer())
            value = builder.load(source, align=terms.dtype.bitwidth // 8)
            chosen = fold
            if terms.dtype != types.float64:
                value, chosen = builder.fpext(value, _WIDE), fold_widened or fold
            builder.store(chosen(builder, builder.load(place, align=8), value), place, align=8)
            return context.get_dummy_value()

        return types.void(lanes, terms), generate

    return take


def halver(fold: _Fold) -> Callable[..., float]:
    """Return `halve(lanes)`: WIDTH lanes are folded, lane `l` with lane `l + n/2`, until one is left."""

    @intrinsic
    def halve(typing: Any, lanes: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left = builder.load(builder.bitcast(arguments[0], _WIDE.as_pointer()), align=8)
            half = WIDTH // 2
            while half:
                low, high = (_part(builder, left, first, half) for first in (0, half))
                left, half = fold(builder, low, high), half // 2
            return builder.extract_element(left, ir.IntType(32)(0))

        return types.float64(lanes), generate

    return halve


def _part(builder: Any, vector: Any, first: int, count: int) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(first, first + count)))
    return builder.shuffle_vector(vector, vector, mask)


@intrinsic
def fill(typing: Any, lanes: Any, value: Any) -> Any:
    """Set WIDTH lanes, from a pointer to float64 on, to one value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.bitcast(arguments[0], _WIDE.as_pointer())
        one = builder.insert_element(ir.Constant(_WIDE, ir.Undefined), arguments[1], ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        builder.store(builder.shuffle_vector(one, one, mask), place, align=8)
        return context.get_dummy_value()

    return types.void(lanes, types.float64), generate
