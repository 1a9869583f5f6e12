"""The upstream vectors, one test a case, and the runner that counts them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.__main__ import main
from tests.conformance.runner import KINDS, run_case, vector_files

_FOLDER = Path(
    os.environ.get("DEVOPS_SIM_CONFORMANCE") or Path(__file__).resolve().parents[1].parent / "shared" / "conformance"
)


def _cases() -> list[Any]:
    if not _FOLDER.is_dir():
        reason = "no conformance vectors beside the repository; set DEVOPS_SIM_CONFORMANCE to their folder"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason), id="no-vectors")]
    cases = [case for _, cases in vector_files(_FOLDER) for case in cases if case["kind"] in KINDS]
    return [pytest.param(case, id=case["id"]) for case in cases]


@pytest.mark.parametrize("case", _cases())
def test_vector(case):
    """Kubernetes and this simulator agree on the case."""
    assert run_case(case).problem == ""


LIMIT = {
    "id": "own/limit",
    "kind": "legacy_limits",
    "input": {
        "current_replicas": 3,
        "desired_replicas": 9,
        "min_replicas": 1,
        "max_replicas": 8,
        "scale_up_limit_factor": 2,
        "scale_up_limit_minimum": 4,
    },
    "expected": {"replicas": 6, "reason": "ScaleUpLimit"},
}


def _write(folder: Path, name: str, *cases: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps({"file": name, "count": len(cases), "cases": cases}))


def test_runner_counts_every_case_of_every_vector_file(tmp_path, capsys):
    """What is no vector file is left out; the count is the last line."""
    _write(tmp_path, "one.json", LIMIT)
    _write(tmp_path, "two.json", LIMIT, LIMIT)
    (tmp_path / "package.json").write_text('{"name": "no vectors"}')
    (tmp_path / "README.md").write_text("no vectors")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "3 passed, 0 failed\n"


def test_runner_fails_wrong_values_unknown_kinds_and_cases_beyond_the_records(tmp_path, capsys):
    wrong = LIMIT | {"id": "own/wrong", "expected": {"replicas": 7, "reason": "ScaleUpLimit"}}
    unknown = LIMIT | {"id": "own/unknown", "kind": "legacy_limit"}
    policies = [{"type": "Pods", "value": 1, "period_s": 60}] * 9
    rules = {"stabilization_window_s": 0, "select_policy": "Max", "policies": policies}
    given = {"direction": "up", "rules": rules}
    large = {"id": "own/large", "kind": "default_rules", "input": given, "expected": rules}
    _write(tmp_path, "cases.json", LIMIT, wrong, unknown, large)
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["own/wrong", "own/unknown", "own/large", "1 passed, 3 failed"]


@pytest.mark.parametrize(("given", "message"), [("nowhere", "no such folder"), ("", "holds no vector file")])
def test_runner_says_where_it_looked(tmp_path, capsys, given, message):
    assert main([str(tmp_path / given)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and str(tmp_path / given) in captured.err
