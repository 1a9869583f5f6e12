"""Trace files: what is read, and how what is wrong is said."""

import dataclasses
import gzip
import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_core.errors import InputError, TraceError
from sim_core.workload import Trace, read_trace

HEADER = "t_seconds,requests_per_second"
PLAIN = f"{HEADER}\n0,1.5\n60,2\n120,0\n"
RATES = [1.5, 2.0, 0.0]


def packed(content: bytes) -> bytes:
    """Gzip without the time of packing: names of tests hold these bytes, and every worker must have the same ones."""
    return gzip.compress(content, mtime=0)


@pytest.fixture
def written(tmp_path):
    """A function that writes a file and returns its path."""

    def write(content: str | bytes, name: str = "shop.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def problems_of(written):
    """A function that reads a file and returns the problems it was refused for."""

    def read(content: str | bytes) -> list[str]:
        path = written(content)
        with pytest.raises(TraceError) as refused:
            read_trace(path)
        assert refused.value.where == str(path)
        return refused.value.problems

    return read


def rows(*lines: str) -> str:
    return "\n".join([HEADER, *lines]) + "\n"


# --- what is read


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        packed(PLAIN.encode()),
        b"\xef\xbb\xbf" + PLAIN.encode(),  # byte order mark, as spreadsheets write it
        packed(b"\xef\xbb\xbf" + PLAIN.encode()),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.rstrip("\n").encode(),
        (PLAIN + "\n \n").encode(),
        b"t_seconds , requests_per_second\n 0 , 1.5 \n60, 2\n120 ,0.0e0\n",
        b'"t_seconds","requests_per_second"\n"0","1.5"\n60,2\n120,-0\n',
        b"requests_per_second,t_seconds\n1.5,0\n2,60\n0,120\n",
        rows("1e6,1.5", "1000060,2", "1000120,0").encode(),
        rows("-60,1.5", "0,2", "60,0").encode(),
    ],
)
@pytest.mark.parametrize("name", ["shop.csv", "shop.csv.gz", "shop"])
def test_a_trace_is_told_by_its_content_not_by_its_name(written, content, name):
    trace = read_trace(written(content, name))
    assert (trace.name, trace.step_s, trace.rates_per_s.tolist()) == ("shop", 60.0, RATES)
    assert not np.signbit(trace.rates_per_s).any()


@given(step_s=st.sampled_from([0.1, 1.0, 3.0, 10.0, 60.0, 299.5, 3600.0]), start_s=st.floats(-1e9, 1e9), data=st.data())
def test_any_even_step_and_any_rates_are_read_back(tmp_path_factory, step_s, start_s, data):
    rates = data.draw(st.lists(st.floats(0.0, 1e12), min_size=2, max_size=30))
    path = tmp_path_factory.mktemp("trace") / "drawn.csv"
    path.write_text(rows(*(f"{start_s + at * step_s!r},{rate!r}" for at, rate in enumerate(rates))))
    trace = read_trace(str(path))
    assert trace.step_s == pytest.approx(step_s, rel=1e-5)  # of times near 1e9, a double keeps 1e-7 s
    assert trace.rates_per_s.tolist() == rates


def test_80_000_rows_are_read_in_less_than_two_seconds(written):
    """About 0.2 s on an idle core; the limit leaves room for a busy machine."""
    path = written(packed(rows(*(f"{60 * at},{at % 997}.25" for at in range(80_000))).encode()))
    begun = time.perf_counter()
    trace = read_trace(path)
    assert time.perf_counter() - begun < 2.0
    assert len(trace.rates_per_s) == 80_000
    assert trace.mean_per_s == pytest.approx(np.mean(np.arange(80_000) % 997) + 0.25)


# --- what is refused as a whole


def test_a_missing_file_and_a_folder_cannot_be_read(tmp_path):
    for path, reason in ((tmp_path / "no.csv", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(TraceError) as refused:
            read_trace(path)
        assert str(refused.value) == f"TraceError: {path}: cannot be read ({reason})"


def test_a_path_that_no_system_knows_cannot_be_read():
    with pytest.raises(TraceError, match=r"cannot be read \(embedded null byte\)"):
        read_trace("a\0b.csv")


def damaged_gzips() -> list[bytes]:
    whole = packed(PLAIN.encode())
    swapped = bytearray(whole)
    swapped[len(whole) // 2] ^= 0xFF
    checksum = whole[:-8] + bytes(8)
    return [whole[:2], whole[:12], whole[:-1], whole[: len(whole) // 2], bytes(swapped), checksum, whole + b"rubbish"]


@pytest.mark.parametrize("content", damaged_gzips())
def test_damaged_gzip_files_are_refused(problems_of, content):
    assert problems_of(content) == ["is a damaged gzip file; fetch or write it again"]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xd8", PLAIN.encode("utf-16"), packed(b"\xff\xfe\xfd")])
def test_what_is_no_text_is_refused(problems_of, content):
    assert problems_of(content) == [f"is not a text file; a trace is CSV with columns {HEADER}"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", packed(b"")])
def test_empty_files_are_refused(problems_of, content):
    assert problems_of(content) == [f"is empty; a trace is CSV with columns {HEADER}"]


def test_binary_rubbish_that_happens_to_be_text_is_refused_in_short_words(problems_of):
    problems = problems_of(b"\x00\x01" * 5000)
    assert problems[1:] == ["line 1: column 't_seconds' is missing", "line 1: column 'requests_per_second' is missing"]
    assert problems[0].startswith("line 1: unknown column '\\x00") and len(problems[0]) < 100


def test_a_list_of_unknown_columns_is_cut(problems_of):
    message = str(TraceError("f", problems_of(",".join(f"c{at}" for at in range(1000)) + "\n1\n2\n")))
    assert len(message) < 4000
    assert message.endswith("and 982 more")  # 1000 unknown and 2 missing, of which 20 are shown


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "t_seconds,request_per_second",
            [
                "line 1: unknown column 'request_per_second'; did you mean 'requests_per_second'?",
                "line 1: column 'requests_per_second' is missing",
            ],
        ),
        ("requests_per_second", ["line 1: column 't_seconds' is missing"]),
        (f"{HEADER},host", ["line 1: unknown column 'host'"]),
        (
            "T_seconds,bytes",
            [
                "line 1: unknown column 'T_seconds'; did you mean 't_seconds'?",
                "line 1: unknown column 'bytes'",
                "line 1: column 't_seconds' is missing",
                "line 1: column 'requests_per_second' is missing",
            ],
        ),
        (
            f"{HEADER},t_seconds",
            [f"line 1: columns must be {HEADER} (got {HEADER},t_seconds)"],
        ),
    ],
)
def test_other_columns_are_refused_with_the_nearest_right_one(problems_of, header, expected):
    assert problems_of(f"{header}\n0,1\n60,2\n") == expected


@pytest.mark.parametrize(("content", "got"), [(HEADER, 0), (HEADER + "\n", 0), (rows("0,1"), 1)])
def test_less_than_two_rows_have_no_step(problems_of, content, got):
    assert problems_of(content) == [f"must hold at least two rows, so that the step is known (got {got})"]


# --- what is refused by line


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("60,many", "requests_per_second must be a number (got 'many')"),
        ("60,", "requests_per_second must be a number (got '')"),
        ("60,1_000", "requests_per_second must be a number (got '1_000')"),
        ("noon,2", "t_seconds must be a number (got 'noon')"),
        ("60,nan", "requests_per_second must be a finite number of 0 or more (got nan)"),
        ("60,inf", "requests_per_second must be a finite number of 0 or more (got inf)"),
        ("60,1e999", "requests_per_second must be a finite number of 0 or more (got inf)"),
        ("60,-0.5", "requests_per_second must be a finite number of 0 or more (got -0.5)"),
        ("nan,2", "t_seconds must be a finite number (got nan)"),
        ("-inf,2", "t_seconds must be a finite number (got -inf)"),
        ("60", f"must hold 2 values, {HEADER} (got 1)"),
        ("60,1,5", f"must hold 2 values, {HEADER} (got 3)"),
    ],
)
def test_a_value_that_is_none_is_named_with_its_line_and_breaks_no_other(problems_of, line, problem):
    found = problems_of(rows("0,1", "60,2", line.replace("60", "120"), "180,3", "240,4"))
    expected = [f"line 4: {problem.replace('60', '120')}"]
    if line.startswith("60") and line.count(",") != 1:  # the time of a line that is no row is not known
        expected.append("line 5: t_seconds jumps from 60 to 180, the step is 60; fill the gap")
    assert found == expected


def test_an_empty_line_between_rows_is_no_gap(problems_of):
    assert problems_of(rows("0,1", "", "60,2", "120,3")) == [
        f"line 3: must hold 2 values, {HEADER} (the line is empty)"
    ]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 60, 240, 300], ["line 4: t_seconds jumps from 60 to 240, the step is 60; fill the gap"]),
        ([0, 60, 60, 120], ["line 4: t_seconds stands twice (got 60); keep one row"]),
        ([0, 60, 120, 150, 210], ["line 5: t_seconds advances by 30, the step is 60; resample to even steps"]),
        (
            [0, 120, 60, 180, 240, 300, 360],
            [
                "line 3: t_seconds jumps from 0 to 120, the step is 60; fill the gap",
                "line 4: t_seconds goes back from 120 to 60; sort the rows",
                "line 5: t_seconds jumps from 60 to 180, the step is 60; fill the gap",
            ],
        ),
        ([60, 0], ["line 3: t_seconds goes back from 60 to 0; sort the rows"]),
        ([5, 5], ["line 3: t_seconds stands twice (got 5); keep one row"]),
    ],
)
def test_gaps_disorder_doubles_and_uneven_steps_are_named_with_their_line(problems_of, times, expected):
    assert problems_of(rows(*(f"{time_s},1" for time_s in times))) == expected


def test_all_problems_are_said_at_once_in_the_order_of_lines(problems_of):
    found = problems_of(rows("0,1", "60,-1", "60,2", "x,3", "180,nan", "240,5", "600,6", "590,y", "660,7"))
    assert found == [
        "line 3: requests_per_second must be a finite number of 0 or more (got -1)",
        "line 4: t_seconds stands twice (got 60); keep one row",
        "line 5: t_seconds must be a number (got 'x')",
        "line 6: requests_per_second must be a finite number of 0 or more (got nan)",
        "line 8: t_seconds jumps from 240 to 600, the step is 60; fill the gap",
        "line 9: requests_per_second must be a number (got 'y')",
        "line 9: t_seconds goes back from 600 to 590; sort the rows",
        "line 10: t_seconds jumps from 590 to 660, the step is 60; fill the gap",
    ]


@pytest.mark.parametrize(("n_wrong", "last"), [(20, None), (21, "and 1 more"), (500, "and 480 more")])
def test_at_most_20_problems_are_listed(problems_of, n_wrong, last):
    found = problems_of(
        rows(*(f"{60 * at},-1" for at in range(n_wrong)), f"{60 * n_wrong},1", f"{60 * n_wrong + 60},1")
    )
    listed = str(TraceError("f", found)).splitlines()[1:]
    assert len(found) == n_wrong
    assert listed[19] == "  line 21: requests_per_second must be a finite number of 0 or more (got -1)"
    assert listed[20:] == ([f"  {last}"] if last else [])


@given(
    st.binary(max_size=200)
    | st.text(alphabet='0123456789.,-+einfa\n\r"_ ', max_size=200).map(lambda t: rows(t).encode())
)
def test_no_content_whatever_is_read_wrongly_or_fails_otherwise(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("rubbish") / "rubbish.csv"
    path.write_bytes(content)
    try:
        trace = read_trace(path)
    except TraceError:
        return
    assert len(trace.rates_per_s) >= 2 and trace.step_s > 0.0
    assert np.isfinite(trace.rates_per_s).all() and (trace.rates_per_s >= 0.0).all()


# --- the trace itself

TRACE = Trace("ramp", 10.0, np.arange(6.0))


def test_figures_of_a_trace():
    assert (TRACE.duration_s, TRACE.peak_per_s, TRACE.mean_per_s) == (60.0, 5.0, 2.5)


def test_a_trace_does_not_change():
    rates = np.ones(3)
    trace = Trace("own", 60.0, rates)
    rates[0] = 99.0
    assert trace.rates_per_s.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        trace.rates_per_s[0] = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.step_s = 30.0
    with pytest.raises(ValueError, match="read-only"):
        trace.slice(0.0, 60.0).rates_per_s[0] = 2.0


@pytest.mark.parametrize(
    ("start_s", "end_s", "rates"),
    [
        (0.0, 60.0, [0, 1, 2, 3, 4, 5]),
        (20.0, 40.0, [2, 3]),
        (18.0, 41.0, [2, 3]),  # to whole steps
        (30.0, 30.1, [3]),  # at least one
        (58.0, 60.0, [5]),
    ],
)
def test_a_slice_holds_the_steps_of_its_time(start_s, end_s, rates):
    cut = TRACE.slice(start_s, end_s)
    assert cut.rates_per_s.tolist() == rates
    assert (cut.name, cut.step_s) == ("ramp", 10.0)


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(-1.0, 10.0), (0.0, 61.0), (30.0, 30.0), (40.0, 20.0), (float("nan"), 10.0)]
)
def test_a_slice_beyond_the_trace_is_refused(start_s, end_s):
    with pytest.raises(InputError) as refused:
        TRACE.slice(start_s, end_s)
    assert str(refused.value) == (f"InputError: trace 'ramp': lasts 60 s; cannot cut out {start_s:g} s to {end_s:g} s")


@given(cuts=st.lists(st.integers(0, 6), min_size=2, max_size=5, unique=True).map(sorted))
def test_slices_end_to_end_are_the_trace(cuts):
    parts = [TRACE.slice(10.0 * a, 10.0 * b).rates_per_s for a, b in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), TRACE.rates_per_s[cuts[0] : cuts[-1]])


@given(st.floats(0.0, 1e6))
def test_scaling_keeps_the_shape(factor):
    scaled = TRACE.scaled(factor)
    np.testing.assert_array_equal(scaled.rates_per_s, TRACE.rates_per_s * factor)
    assert scaled.peak_per_s == 5.0 * factor  # not the cached peak of the first
    assert TRACE.peak_per_s == 5.0


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_scaling_by_what_is_no_factor_is_refused(factor):
    with pytest.raises(InputError) as refused:
        TRACE.scaled(factor)
    assert str(refused.value) == (
        f"InputError: trace 'ramp': can be scaled by a finite number of 0 or more (got {factor:g})"
    )


def test_the_digest_is_that_of_step_and_rates():
    same = Trace("another name", 10, [0, 1, 2, 3, 4, 5])
    assert same.digest == TRACE.digest and len(TRACE.digest) == 64
    others = [Trace("ramp", 20.0, TRACE.rates_per_s), TRACE.scaled(2.0), TRACE.slice(0.0, 50.0)]
    assert len({TRACE.digest, *(other.digest for other in others)}) == 4


def test_the_digest_does_not_depend_on_how_a_file_was_written(written):
    first = read_trace(written(PLAIN))
    second = read_trace(written(packed(PLAIN.replace("\n", "\r\n").encode()), "copy.csv.gz"))
    assert first.digest == second.digest
