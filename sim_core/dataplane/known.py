"""What is known of stations at rest: points are worked out once for all that are alike, in whatever lane and tick.

A point follows from what its tag stands for and from nothing else, so nobody can tell who worked it out, and a batch
plays the same on any number of threads. Tables of fixed size: what was asked for longest ago among those of a row is
worked out anew when it is asked for again.
"""

from __future__ import annotations

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.station import CURVE, POINT

KNOWN_POINT = np.dtype([("tag", np.uint64), ("point", POINT)], align=True)
_POINTS, _CURVES = 1 << 15, 1 << 10  # rows; powers of two
_SIDE_BY_SIDE = 4  # points of a station in neighbouring rows


def known_stations() -> dict[str, np.ndarray]:
    """Tables of points and curves in which nothing is known yet, by their names in a World; one set a thread."""
    return {"known_points": np.zeros(_POINTS, KNOWN_POINT), "known_curves": np.zeros(_CURVES, CURVE)}


@kernel
def mixed(tag, value):
    """A tag that also stands for one number more (the steps of MurmurHash's finalizer); odd, so that 0 is none."""
    tag = (tag ^ np.float64(value).view(np.uint64)) * np.uint64(0xFF51AFD7ED558CCD)
    tag = (tag ^ (tag >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return (tag ^ (tag >> np.uint64(29))) | np.uint64(1)


@kernel
def copy_point(into, of):
    """Copies a POINT."""
    into.utilization, into.open, into.blocked, into.waits = of.utilization, of.open, of.blocked, of.waits
    into.wait_s, into.wait_variance_s2, into.wait_third_s3 = of.wait_s, of.wait_variance_s2, of.wait_third_s3
    into.extra_variance_s2, into.extra_third_s3 = of.extra_variance_s2, of.extra_third_s3


@kernel
def row_of(tag, table):
    """The row of a table in which what has this tag would stand."""
    return np.int64(tag >> np.uint64(40)) & (len(table) - 1)


@kernel
def row_beside(tag, place, table):
    """The row of a table for what stands at a place of all that goes by this tag: neighbours lie side by side in memory."""
    group = mixed(tag, float(place // _SIDE_BY_SIDE))
    return (row_of(group, table) & -_SIDE_BY_SIDE) | (place % _SIDE_BY_SIDE)


@kernel
def recall(known_points, row, tag, point):
    """Sets POINT to the one with this tag, which has its place in this row; whether there is one."""
    if known_points[row].tag != tag:
        row ^= _SIDE_BY_SIDE
        if known_points[row].tag != tag:
            return False
    copy_point(point, known_points[row].point)
    return True


@kernel
def remember(known_points, row, tag, point):
    """Puts a POINT into its row; what stood there goes to the other row for such points."""
    known, other = known_points[row], known_points[row ^ _SIDE_BY_SIDE]
    other.tag = known.tag
    copy_point(other.point, known.point)
    known.tag = tag
    copy_point(known.point, point)


@kernel
def mix_points(into, one, other, part):
    """Sets a POINT to what lies between two, `part` of the way to the other."""
    into.utilization = one.utilization + part * (other.utilization - one.utilization)
    into.open = one.open + part * (other.open - one.open)
    into.blocked = one.blocked + part * (other.blocked - one.blocked)
    into.waits = one.waits + part * (other.waits - one.waits)
    into.wait_s = one.wait_s + part * (other.wait_s - one.wait_s)
    into.wait_variance_s2 = one.wait_variance_s2 + part * (other.wait_variance_s2 - one.wait_variance_s2)
    into.wait_third_s3 = one.wait_third_s3 + part * (other.wait_third_s3 - one.wait_third_s3)
    into.extra_variance_s2 = one.extra_variance_s2 + part * (other.extra_variance_s2 - one.extra_variance_s2)
    into.extra_third_s3 = one.extra_third_s3 + part * (other.extra_third_s3 - one.extra_third_s3)


@kernel
def scale_times(point, by):
    """Makes the times of a POINT so many times as long: in another unit, or at another speed."""
    point.wait_s *= by
    point.wait_variance_s2 *= by * by
    point.extra_variance_s2 *= by * by
    point.wait_third_s3 *= by**3
    point.extra_third_s3 *= by**3
