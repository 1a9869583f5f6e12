"""Threads that share the work of one call: every piece once, whoever is late, whatever fails."""

from __future__ import annotations

import gc
import threading

import pytest

from agents.crew import Crew


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_piece_is_done_once_when_run_returns(threads):
    """Ten thousand calls of a crew, each of eight pieces for each thread."""
    crew, done = Crew(threads), []
    for call in range(10_000 // threads):
        crew.run(lambda place, piece: done.append(piece), [range(8 * own, 8 * own + 8) for own in range(threads)])
        assert sorted(done) == list(range(8 * threads)), call
        done.clear()
    crew.close()


def test_who_is_done_takes_over_and_nobody_waits_for_one_that_has_nothing_in_hand():
    """The caller does the pieces of a helper that holds on to its first one, and returns when that is done, too."""
    crew, by, held, rest = Crew(2), {}, threading.Event(), threading.Event()

    def work(place, piece):
        by[piece] = place
        if piece == "first":
            held.set()
            rest.wait(5.0)
        elif piece == "own":
            held.wait(5.0)
        elif piece == "second":  # taken from the end, so the last one
            rest.set()

    crew.run(work, [["own"], ["first", "second", "third"]])
    assert by["first"] != by["own"]
    assert by["second"] == by["third"] == by["own"] == 0
    crew.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_piece_raises_reaches_the_caller_after_the_rest_is_done(threads):
    """Wherever it was done; the next call begins with a clean slate."""
    crew, done = Crew(threads), []

    def work(place, piece):
        done.append(piece)
        if piece == 2:
            raise ValueError(f"piece {piece}")

    for _ in range(2):
        done.clear()
        with pytest.raises(ValueError, match="piece 2"):
            crew.run(work, [[k] for k in range(threads - 1)] + [[1, 2, 3, 4]])
        assert set(done) >= {1, 2, 3, 4}
    crew.close()


def test_threads_end_with_their_crew():
    """When it is closed, twice even, and when nobody holds it any more."""
    before = threading.active_count()
    crew = Crew(3)
    assert threading.active_count() == before + 2
    crew.close()
    crew.close()
    assert threading.active_count() == before
    crew = Crew(3)
    del crew
    gc.collect()
    assert threading.active_count() == before
