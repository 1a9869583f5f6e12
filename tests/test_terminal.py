"""Tables on terminals of real widths: every line fits, every row has its figures, and what is left out is said."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.store.state import StateDir
from flows.terminal.layout import fitted, shortened, wrapped
from flows.terminal.tables import HEADLINES, short_labels
from tests.test_groups import play, spec

ROOT = Path(__file__).parents[1]
WINDOW = "scale_down_stabilization_window_seconds"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A state folder with a sweep whose labels are longer than a terminal is wide."""
    root = tmp_path_factory.mktemp("terminal") / "state"
    policies = [{"policy": "hpa", "target_cpu_utilization_pct": [50, 90], WINDOW: [60, 300]}]
    parameters = {"database.max_connections": [400, 500], "services.api.container.queue_limit": 32}
    play(StateDir.open(root), spec("wide", policies=policies, parameters=parameters, seeds={"count": 3}))
    return root


def on_terminal(arguments: list[str], columns: int, variable: bool = False) -> list[str]:
    """Lines that Python with these arguments prints on a terminal so wide, by its size or by $COLUMNS."""
    driver, terminal = pty.openpty()
    size = 200 if variable else columns
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, size, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "dumb"}
    environment |= {"COLUMNS": str(columns)} if variable else {}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=terminal, stdin=terminal, stderr=subprocess.PIPE
    )
    os.close(terminal)
    written = b""
    with contextlib.suppress(OSError):  # on Linux the end of a terminal is an error
        while part := os.read(driver, 65_536):
            written += part
    os.close(driver)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r", "").split("\n")


def table_of(lines: list[str]) -> tuple[list[str], list[str]]:
    """Lines of the titles and of the rows of the first table."""
    rule = next(i for i, line in enumerate(lines) if line.startswith("──"))
    end = next(i for i, line in enumerate(lines) if line.startswith(("No room", "Best:")))
    start = next(i for i, line in enumerate(lines) if "configuration" in line)
    return lines[start:rule], lines[rule + 1 : end]


@pytest.mark.parametrize(("columns", "variable"), [(80, False), (60, True)])
def test_compare_shows_its_figures_on_a_narrow_terminal(home, columns, variable):
    """Cost and SLO attainment of each of 8 configurations with their intervals, at 80 and at 60 columns."""
    lines = on_terminal(["-m", "flows.cli", "compare", "--state", str(home)], columns, variable)
    titles, rows = table_of(lines)
    assert max(map(len, [*titles, *rows])) <= columns
    assert "cost_usd" in " ".join(titles) and "attainment" in " ".join(titles)
    figures = [line for line in rows if re.search(r"\d+\.\d\d +\d+\.\d{3}%", line)]
    assert len(figures) == 8
    assert sum("max_connections=400" in line or "max_conn…ctions=400" in line for line in rows) == 4
    text = re.sub(r"\s+", " ", "\n".join(lines))
    (left_out,) = re.findall(rf"No room in {columns} columns for ([a-z_0-9, ]+): a wider terminal and --json", text)
    assert set(left_out.split(", ")) >= {"utilization_mean", "scale_events"}
    assert "all: hpa services.api.container.queue_limit=32" in text


EVALUATED = {
    "profile": "production",
    "engine": "fluid",
    "duration_s": 86_400.0,
    "seeds": 10,
    "slo": {"objective": 0.99},
    "no_room": None,
    "report": "report.html",
    "mlflow": None,
    "policies": {
        policy: {
            "keeps_slo": True,
            "settings": {},
            "savings": None,
            "gap_closed": {"mean": 0.57, "ci95": [0.56, 0.58]},
            "indicators": {
                "cost_usd": {"mean": 31.32, "ci95": [31.21, 31.43]},
                "slo_attainment": {"mean": 0.99321, "ci95": [0.99311, 0.99331]},
                "utilization_mean": {"mean": 0.62, "ci95": [0.61, 0.63]},
            },
        }
        for policy in ("hpa-tuned", "models:/autoscaler-of-the-whole-production-fleet@champion")
    },
}


@pytest.mark.parametrize("columns", [60, 80])
def test_policies_are_compared_on_a_narrow_terminal(columns):
    """The name of a model is shortened in its middle: what ends it, its alias, stays; so do the figures."""
    code = f"from flows.terminal.tables import show_evaluation; show_evaluation({EVALUATED!r})"
    lines = on_terminal(["-c", code], columns)
    table = lines[: next(i for i, line in enumerate(lines) if "No room" in line)]
    assert max(map(len, table)) <= columns
    (model,) = [line for line in lines if line.startswith("*  models:")]
    assert "@champion  " in model
    assert all(any(figure in line for line in lines) for figure in ("31.32", "99.321%", "[31.21, 31.43]"))
    assert any("No room" in line and "utilization_mean" in line for line in lines)
    assert any("0.57" in line for line in table) == (columns == 80)


def test_a_value_wider_than_the_terminal_is_folded_not_cut():
    """A digest of 64 characters on 50 columns is on two lines, whole."""
    digest = "0123456789abcdef" * 4
    code = f"from flows.terminal.output import print_table; print_table('t', ('figure', 'value'), [('digest', '{digest}')])"
    lines = on_terminal(["-c", code], 50)
    assert max(map(len, lines)) <= 50
    assert "".join(re.findall(r"[0-9a-f]{8,}", "".join(lines))) == digest


def test_what_is_no_terminal_gets_everything_in_full(home):
    """A pipe has no width: each configuration is one line with every figure, however narrow $COLUMNS is."""
    command = [sys.executable, "-m", "flows.cli", "compare", "--state", str(home)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"COLUMNS": "40"}, capture_output=True, text=True, check=True
    )
    rows = [line for line in done.stdout.splitlines() if f"{WINDOW}=" in line and "%" in line]
    assert len(rows) == 8
    titles = next(line for line in done.stdout.splitlines() if "configuration" in line).split()
    assert titles == ["configuration", *HEADLINES]
    assert all(re.search(r"\d% \[\d+\.\d+%, \d+\.\d+%\]", row) for row in rows)  # on the same line as its mean
    assert "No room" not in done.stdout and "…" not in done.stdout


NAMES = st.text("abcdef_=. ", min_size=1, max_size=90).map(str.strip).filter(bool)
CELLS = st.sampled_from(["-", "31.32", "31.32 [31.21, 31.43]", "99.975% [99.971%, 99.979%]"])


@given(st.data(), st.integers(40, 200), st.integers(1, 7))
def test_a_table_fits_and_its_first_figures_stay_whole(data, room, n_figures):
    """In 40 columns and more; nothing but names is shortened, and columns are left out from the right."""
    columns = ["configuration", *(f"figure_number_{i}" for i in range(n_figures))]
    rows = data.draw(st.lists(st.tuples(NAMES, *[CELLS] * n_figures), min_size=1, max_size=5))
    layout = fitted(columns, rows, words=1, room=room)
    widths = [max(len(part) for row in [layout.columns, *layout.rows] for part in row[i].split("\n"))
              for i in range(len(layout.columns))]  # fmt: skip
    assert sum(widths) + 2 * (len(widths) - 1) <= room
    kept = len(layout.columns)
    assert kept >= 2 and list(layout.left_out) == columns[kept:]
    assert [[cell.replace("\n", " ") for cell in row[1:]] for row in layout.rows] == [list(row[1:kept]) for row in rows]
    assert [title.replace("\n", "") for title in layout.columns[1:]] == columns[1:kept]


@given(NAMES, st.integers(8, 60))
def test_a_shortened_name_keeps_its_ends(text, room):
    assert len(shortened(text, room)) <= room
    assert all(len(line) <= room for line in wrapped(text, room).split("\n"))
    if len(text) > room:
        assert shortened(text, room)[-room // 2 + 1 :] == text[-room // 2 + 1 :]


def test_a_label_says_first_what_tells_a_row_from_the_others():
    """What all rows have in common goes to the title; a path is cut to its end where that is clear."""
    common = {"policy": "hpa", "settings": {WINDOW: 300}}
    rows = [
        {**common, "parameters": {"database.cores": cores, "cache.keys": 5}, "scenario": {"a.b.cores": n}, "label": ""}
        for cores, n in ((2, 1), (4, 1))
    ]
    assert short_labels(rows) == (
        f"hpa {WINDOW}=300 cache.keys=5",
        ["database.cores=2 ·\N{NO-BREAK SPACE}a.b.cores=1", "database.cores=4 ·\N{NO-BREAK SPACE}a.b.cores=1"],
    )
    one = [{**common, "parameters": {}, "scenario": {}, "label": "whole"}]
    assert short_labels(one) == ("", [f"hpa {WINDOW}=300"])
    assert short_labels(one * 2) == (f"hpa {WINDOW}=300", ["whole", "whole"])
