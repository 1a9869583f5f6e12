"""Rows of the engine's own tables by address.

An event touches a few rows of many tables, and these grow while a tick runs. A kernel that is handed a dozen arrays pays
for each of them at every call; one that is handed a record pays nothing. So the engine's record holds the addresses of its
tables, and `rows_of(dtype)` makes the kernel that turns (address, index) into a row, by reference: no bounds are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sim_core.compiled import kernel


def rows_of(dtype: np.dtype) -> Callable[..., Any]:
    """A function of kernels, `row(address, index)`: the row of a table of this type, by reference."""
    record = numba.from_dtype(dtype)
    size = dtype.itemsize

    @intrinsic
    def row(typing_context, address, index):
        def codegen(context, builder, signature, args):
            start, place = args
            offset = builder.mul(place, ir.Constant(ir.IntType(64), size))
            return builder.inttoptr(builder.add(start, offset), context.get_value_type(record))

        return record(types.int64, types.int64), codegen

    return row


@intrinsic
def allocate(typing_context, n_bytes):
    """The address [int64] of so many new bytes, all zero."""

    def codegen(context, builder, signature, args):
        pointer = context.nrt.allocate(builder, args[0])
        cgutils.memset(builder, pointer, args[0], 0)
        return builder.ptrtoint(pointer, ir.IntType(64))

    return types.int64(types.int64), codegen


@intrinsic
def release(typing_context, address):
    """Gives back what `allocate` gave; nothing for address 0."""

    def codegen(context, builder, signature, args):
        context.nrt.free(builder, builder.inttoptr(args[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _copy(typing_context, target, source, n_bytes):
    def codegen(context, builder, signature, args):
        target, source, size = args
        cgutils.raw_memcpy(
            builder,
            builder.inttoptr(target, cgutils.voidptr_t),
            builder.inttoptr(source, cgutils.voidptr_t),
            size,
            1,
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def bits_of(typing_context, number):
    """The 64 bits [int64] of a number [float64]."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def number_of(typing_context, bits):
    """The number [float64] with these 64 bits [int64]."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@kernel
def grow(address, n_bytes, new_n_bytes):
    """Moves a table to a longer place and returns its address; what is new is zero."""
    moved = allocate(new_n_bytes)
    _copy(moved, address, n_bytes)
    release(address)
    return moved
