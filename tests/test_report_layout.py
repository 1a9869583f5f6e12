"""Where the tables of the report lie on screens of several widths, measured in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.report import write_report
from tests.test_report import evaluation, indicators, report_data, with_interval
from tests.waiting import guard_s

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
MEASURE = """<script>
const box = document.querySelector(".scroll"), table = box.querySelector("table");
const edge = box.getBoundingClientRect().right;
const inside = (cell) => cell.getBoundingClientRect().right <= edge + 1 && cell.scrollWidth <= cell.clientWidth + 1;
document.title = JSON.stringify({
  width: innerWidth, page: document.documentElement.scrollWidth, table: box.scrollWidth, box: box.clientWidth,
  titles: [...table.tHead.rows[0].cells].map((cell) => cell.textContent),
  hidden: [...table.querySelectorAll("th, td")].filter((cell) => !inside(cell)).map((cell) => cell.textContent),
});
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: the layout of the report is not measured")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with the widest figures that are likely: five policies, one of a long name, settings, fine intervals."""
    champion = {**indicators(1234.5, 0.99912, 0.2034, events=348.0), **with_interval("gap_closed", -15.94, 1.4)}
    table = pd.concat(
        [evaluation(), pd.DataFrame([{"policy": "models:/autoscaler-production@champion", **champion}])],
        ignore_index=True,
    )
    table["slo_attainment_ci95_low"] = table["slo_attainment"] - 0.0123
    table["settings"] = "target_cpu_utilization_pct 85, scale_down_stabilization_window_seconds 300"
    written = write_report(report_data(evaluation=table), tmp_path_factory.mktemp("layout") / "report.html")
    # Figures take no part in where a table lies; without scripts of its own the page lets the ruler in.
    bare = re.sub(r"<script.*?</script>|<meta http-equiv.*?>", "", written.read_text(), flags=re.S)
    written.write_text(bare.replace("</body>", f"{MEASURE}</body>"))
    return written


def measured(page: Path, width: int, folder: Path) -> dict[str, Any]:
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},900", "--dump-dom", page.as_uri()]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=guard_s())
    title = re.search(r"<title>(.*?)</title>", done.stdout, flags=re.S)
    assert title is not None, done.stderr
    found = json.loads(unescape(title.group(1)))
    assert found["width"] == width
    return found


@pytest.mark.parametrize("width", [1280, 1440, 1920, 2560])
def test_the_whole_comparison_is_in_sight_without_scrolling(page: Path, tmp_path: Path, width: int):
    """CPU utilization, scale events and the gap closed are what a reader came for: none lies beyond the edge."""
    found = measured(page, width, tmp_path)
    assert {"CPU utilization", "scale events [1/day]", "gap closed"} <= set(found["titles"])
    assert found["hidden"] == []
    assert found["table"] <= found["box"]
    assert found["page"] <= width


def test_on_a_small_screen_the_table_scrolls_and_the_page_does_not(page: Path, tmp_path: Path):
    found = measured(page, 500, tmp_path)  # no window of a desktop browser is narrower
    assert found["table"] > found["box"]
    assert found["page"] <= 500
