"""One table tells everything of an indicator; whoever shows, compares or limits them asks it."""

from __future__ import annotations

import ast
from pathlib import Path

from experiments.report.data import INDICATOR_TITLES, PER_DAY
from flows.terminal.output import figure
from sim_core.indicators import HIGHER_IS_BETTER, INDICATORS
from sim_core.simulation import simulate
from sim_core.world import Lane
from tests.conftest import flat

ROOT = Path(__file__).parents[1]


def test_a_simulation_gives_every_indicator_of_the_table_in_its_order(production):
    assert list(simulate([Lane(production, flat(100.0), 1)], 60.0).indicators.columns) == list(INDICATORS)


def test_no_other_place_lists_the_indicators():
    """A second list would have to be kept in step: only the table, and where their values come from, name most of them."""
    holders = []
    for package in ("sim_core", "agents", "experiments", "flows"):
        for file in sorted((ROOT / package).rglob("*.py")):
            constants = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
            if len(set(INDICATORS).intersection(map(str, constants))) > len(INDICATORS) / 2 + 1:
                holders.append(file.relative_to(ROOT).as_posix())
    assert holders == ["sim_core/accounting.py", "sim_core/indicators.py"]


def test_names_titles_and_units_agree():
    for name, indicator in INDICATORS.items():
        assert indicator.name == name
        assert INDICATOR_TITLES[name] == indicator.title
        assert indicator.per_day == (name in PER_DAY) == ("/day" in indicator.title)
        assert (name in HIGHER_IS_BETTER) == indicator.more_is_better
        assert not (indicator.is_share and indicator.per_day)
        assert figure(name, 0.5).endswith("%") == indicator.is_share
    assert len(set(INDICATOR_TITLES.values())) == len(INDICATOR_TITLES)
