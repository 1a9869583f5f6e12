"""Worlds as tables: one array a *kind of thing* over all lanes of a batch, and a lane as views of its ranges.

A lane owns a contiguous range of the rows of each kind; tables of one kind have the same rows (a service's parameters,
its state, its sums). Inside kernels a lane is a `World`: its own record, and of every table the view of its range, so
every index that a row holds counts within the lane. Sizes come from profiles: lanes of any shape share a batch, and no
kernel knows how many there are of anything.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from sim_core.compiled import glue, phase

_RANGE_FIELDS = "{kind}_first", "n_{kind}"


class Table(NamedTuple):
    """One array over all lanes.

    Attributes:
        name: in kernels `world.<name>`.
        kind: what a row stands for; tables of a kind have the same ranges.
        dtype: of a row: a record, or a number.
        is_state: begins zeroed, and anew with every reset; else parameters, written once from the profile.
    """

    name: str
    kind: str
    dtype: Any
    is_state: bool = False


@intrinsic
def rows(typingctx, array, first, n):
    """`array[first : first + n]` that owns nothing: no reference is counted, so cutting costs next to nothing.

    The caller keeps `array` alive, as everybody does who passes tables down.
    """
    if not isinstance(array, types.Array):
        return None
    signature = array(array, types.intp, types.intp)

    def codegen(context, builder, signature, arguments):
        source = make_array(signature.args[0])(context, builder, arguments[0])
        view = make_array(signature.return_type)(context, builder)
        strides = cgutils.unpack_tuple(builder, source.strides)
        shape = [arguments[2], *cgutils.unpack_tuple(builder, source.shape)[1:]]
        data = cgutils.pointer_add(builder, source.data, builder.mul(arguments[1], strides[0]), source.data.type)
        populate_array(view, data=data, shape=shape, strides=strides, itemsize=source.itemsize, meminfo=None)
        return view._getvalue()

    return signature, codegen


class Layout:
    """The tables of a kind of world, and the types in which kernels see them.

    Args:
        tables: every table; the names of those that a batch shares whole (`rates`) stand in `shared`.
        lane, state: fields of a lane's own two records: its parameters and its state.

    Attributes:
        kinds: what rows stand for, in the order of their first table.
        lane: dtype of a lane's parameters: its own fields and, for each kind, `<kind>_first` and `n_<kind>`.
        Tables: namedtuple `lanes`, `states`, the tables, and the shared arrays: what entry kernels take.
        World: namedtuple `lane`, `state`, a view of each table, and the shared arrays: what phases take.
    """

    def __init__(self, tables: Sequence[Table], lane: Sequence[Any], state: Sequence[Any], shared: Sequence[str]):
        self.tables = {table.name: table for table in tables}
        assert len(self.tables) == len(tables), "two tables have the same name"
        self.kinds = tuple(dict.fromkeys(table.kind for table in tables))
        ranges = [(field.format(kind=kind), np.int64) for kind in self.kinds for field in _RANGE_FIELDS]
        self.lane = np.dtype([*lane, *ranges], align=True)
        self.state = np.dtype(list(state), align=True)
        self.shared = tuple(shared)
        self.Tables: Any = namedtuple("Tables", ["lanes", "states", *self.tables, *shared])  # type: ignore[misc]
        self.World: Any = namedtuple("World", ["lane", "state", *self.tables, *shared])  # type: ignore[misc]

    def cutter(self) -> Any:
        """A kernel (tables, lane) -> World."""
        views = [
            f"rows(tables.{table.name}, lane.{table.kind}_first, lane.n_{table.kind})" for table in self.tables.values()
        ]
        shared = [f"rows(tables.{name}, 0, len(tables.{name}))" for name in self.shared]
        arguments = ", ".join(["lane", "tables.states[index]", *views, *shared])
        source = f"def cut(tables, index):\n    lane = tables.lanes[index]\n    return World({arguments})\n"
        scope: dict[str, Any] = {"rows": rows, "World": self.World}
        exec(compile(source, "<cut>", "exec"), scope)
        return glue(scope["cut"])  # Numba returns no tuple that holds a record

    def allocate(self, lanes: Sequence[Mapping[str, np.ndarray | int]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The tables of a batch, parameters filled in, and the lanes' records with their ranges.

        Args:
            lanes: for every lane, by name of a parameter table, its rows; by kind, for kinds without parameters, how
                many rows there are.

        Returns:
            arrays by table, and LANE records, shape (n_lanes,).
        """
        records = np.zeros(len(lanes), dtype=self.lane)
        filled = {table.kind: table.name for table in reversed(self.tables.values()) if not table.is_state}
        for kind in self.kinds:
            sizes = [
                len(of_lane[filled[kind]]) if kind in filled else int(of_lane[kind])  # type: ignore[arg-type]
                for of_lane in lanes
            ]
            records[f"n_{kind}"] = sizes
            records[f"{kind}_first"] = np.cumsum([0, *sizes[:-1]])
        arrays = {}
        for table in self.tables.values():
            size = int(records[f"n_{table.kind}"].sum())
            array = arrays[table.name] = np.zeros(max(1, size), dtype=table.dtype)
            if not table.is_state and size:
                array[:size] = np.concatenate([of_lane[table.name] for of_lane in lanes])
        return arrays, records

    def bytes_of(self, lane: np.void) -> int:
        """Memory of one lane: its records and its rows of every table [bytes]."""
        own = self.lane.itemsize + self.state.itemsize
        return own + sum(int(lane[f"n_{t.kind}"]) * np.dtype(t.dtype).itemsize for t in self.tables.values())


def phases(*kernels: Any) -> Any:
    """One kernel (world) -> None that runs kernels of the same kind in turn; of none, one that does nothing."""
    if not kernels:
        return _nothing
    if len(kernels) == 1:
        return kernels[0]
    first, then = kernels[0], phases(*kernels[1:])

    @phase
    def in_turn(world):
        first(world)
        then(world)

    return in_turn


@phase
def _nothing(world):
    pass
