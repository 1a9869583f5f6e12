"""Policies by name: one registry for all who name them, and policies from a user's own module behind its checks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from agents.learning.search import Family
from agents.policies.contract import play
from agents.policies.own import own_policy, sources_of
from agents.policies.registry import POLICIES, check_made, choice_of, choices_of, known, policy_of, split_outside
from experiments.held_out import HeldOut, build_policies
from experiments.planning.spec import spec_from_dict
from experiments.report.data import role_of
from sim_core.errors import PolicyError, SpecError
from sim_core.world import Lane, Scaler
from tests.conftest import flat

OWN = """
import numpy as np
from sim_core.world import Scaler


class Fixed:
    name = "fixed"

    def __init__(self, replicas=3, says=None, scales=None):
        self.replicas, self.says, self.scales = replicas, says, scales

    def reset(self, lanes, duration_s):
        self.lanes = len(lanes)

    def predict(self, observations):
        shape = observations.n_lanes, observations.n_services
        answers = {
            None: lambda: np.full(shape, self.replicas),
            "list": lambda: [[self.replicas]],
            "flat": lambda: np.full(observations.n_lanes, self.replicas),
            "floats": lambda: np.full(shape, 2.5),
            "negative": lambda: np.full(shape, -1),
            "huge": lambda: np.full(shape, 2**40),
            "fails": lambda: 1 / 0,
        }
        return answers[self.says]()

    def scalers(self):
        return {None: None, "right": [Scaler.static(self.replicas)] * self.lanes, "wrong": [Scaler.static(1)]}[self.scales]


def made(target: float):
    return Fixed(round(10 * target))


NOT_A_POLICY = 7


class Lacking:
    def predict(self, observations):
        return None


class Failing(Fixed):
    def __init__(self):
        raise KeyError("no such weights")
"""


def line_of(words: str) -> int:
    return next(number for number, line in enumerate(OWN.split("\n"), start=1) if words in line)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a module of the user's in it; what is imported from it is forgotten afterwards."""
    (tmp_path / "mine_here.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def lanes(production, count: int = 2) -> list[Lane]:
    return [Lane(production, flat(100.0), seed) for seed in range(count)]


def refused(text: str) -> str:
    with pytest.raises(PolicyError) as wrong:
        own_policy(choice_of(text, "run"))
    return str(wrong.value)


# --- one registry


def test_every_policy_is_made_by_the_entry_that_names_it():
    """A factory, family or scaler that is not there would only be missed by who names that policy."""
    from pkgutil import resolve_name

    for entry in POLICIES.values():
        assert all(callable(resolve_name(reference)) for reference in (entry.factory, entry.scaler) if reference)
        assert entry.family is None or isinstance(resolve_name(entry.family), Family)
        if not (entry.trained or entry.required):
            assert policy_of(choice_of(entry.name, next(iter(entry.places)))).name == entry.name


def test_the_same_name_with_settings_is_known_wherever_it_may_stand():
    assert policy_of(choice_of("static(replicas=4)", "evaluate")).settings == {"replicas": 4}
    assert policy_of(choice_of("hpa( target_cpu_utilization_pct = 55, tolerance=0.2 )", "run")).settings == {
        "target_cpu_utilization_pct": 55,
        "tolerance": 0.2,
    }
    assert not choice_of("static(replicas=4)", "evaluate").tuned
    assert choice_of("static", "evaluate").tuned
    assert split_outside("static(replicas=4),m:P(a=[1,2],b='x,y'),hpa") == [
        "static(replicas=4)",
        "m:P(a=[1,2],b='x,y')",
        "hpa",
    ]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (
            "hpaa",
            "run",
            "unknown policy 'hpaa' (known: static, hpa, request-rate, scheduled, forecast, rule, general, known-rates, "
            "clairvoyant, models:/NAME@ALIAS, my_module:MyPolicy)",
        ),
        ("hpaa", "run", "did you mean 'hpa'?"),
        ("hpa-tuned", "run", "unknown policy 'hpa-tuned'"),
        ("agent", "evaluate", "unknown policy 'agent'"),
        ("clairvoyant", "sweep", "must be one of static, hpa"),
        ("hpa(target_cpu=60)", "run", "target_cpu: unknown setting of hpa"),
        ("hpa(tolerance)", "run", "settings must read NAME=VALUE"),
        ("hpa(tolerance=0.1,tolerance=0.2)", "run", "tolerance: given twice"),
        ("models:/autoscaler", "run", "a model must read models:/NAME@ALIAS"),
        ("models:/a@champion(x=1)", "run", "a model has no settings"),
        ("my-module:Policy", "run", "a policy of your own must read my_module:MyPolicy"),
    ],
)
def test_a_name_that_no_policy_has_is_refused_with_what_there_is(text, place, words):
    with pytest.raises(PolicyError) as wrong:
        choice_of(text, place)
    assert words in str(wrong.value)


def test_all_wrong_names_are_told_at_once():
    with pytest.raises(PolicyError) as wrong:
        choices_of("--policies", ["hpaa", "hpa", "hpa", "statik"], "evaluate")
    assert len(wrong.value.problems) == 3  # twice, and two unknown


def test_a_specification_knows_the_policies_of_the_registry():
    data = {
        "name": "mine",
        "profile": "production",
        "traffic": {
            "generator": "diurnal",
            "train": {"duration": "1d"},
            "evaluate": {"start": "1d", "duration": "1h"},
        },
        "policies": [{"policy": "hpa"}],
        "evaluation": {"policies": ["hpa(tolerance=0.2)", "mine_here:Fixed(replicas=5)", "static"]},
    }
    assert spec_from_dict(data).evaluation.policies[1] == "mine_here:Fixed(replicas=5)"
    data["evaluation"]["policies"] = ["clairvoyent", "agent"]
    with pytest.raises(SpecError) as wrong:
        spec_from_dict(data)
    assert "evaluation.policies.0: unknown policy 'clairvoyent'" in str(wrong.value)
    assert "did you mean 'clairvoyant'?" in str(wrong.value)
    assert "evaluation.policies.1: needs the section train" in str(wrong.value)
    assert all(name in str(wrong.value) for name in known("evaluation"))


def test_a_specification_names_a_policy_once():
    """Found when it is read: not after the sweep and the training, by the comparison."""
    traffic = {"generator": "diurnal", "train": {"duration": "1d"}, "evaluate": {"start": "1d", "duration": "1h"}}
    data = {"name": "twice", "profile": "production", "traffic": traffic, "policies": [{"policy": "hpa"}]}
    with pytest.raises(SpecError, match=r"evaluation.policies.1: is named twice \(got 'hpa'\)"):
        spec_from_dict(data | {"evaluation": {"policies": ["hpa", "hpa"]}})


def test_a_module_of_any_name_is_not_taken_for_a_policy_of_ours_in_a_report():
    for name in ("hpa_mine:Policy", "ppo:Agent(x=1)", "static_fleet:Policy"):
        assert role_of(name) == name
    assert role_of("models:/autoscaler-production@champion") == "agent"
    assert role_of("static(replicas=4)") == "static"


# --- a user's own module


def test_a_policy_of_ones_own_is_played_under_the_name_it_was_given(folder, production):
    """It decides like the policy of this package that decides the same, through `predict` and by scalers."""
    text = "mine_here:Fixed(replicas=5)"
    policy = policy_of(choice_of(text, "run"))
    assert (policy.name, policy.settings) == (text, {"replicas": 5})
    expected = play(lanes(production), policy_of(choice_of("static(replicas=5)", "run")), 600.0).indicators
    scaled = policy_of(choice_of("mine_here:Fixed(replicas=5,scales=right)", "run"))
    np.testing.assert_array_equal(play(lanes(production), scaled, 600.0).indicators, expected)
    began_alike = [lane.profile.with_overrides({"services.api.replicas.initial": 5}) for lane in lanes(production)]
    alike = [Lane(profile, flat(100.0), seed) for seed, profile in enumerate(began_alike)]
    static = play(alike, policy_of(choice_of("static(replicas=5)", "run")), 600.0).indicators
    np.testing.assert_array_equal(play(alike, policy, 600.0).indicators, static)


def test_a_function_may_make_the_policy(folder):
    assert policy_of(choice_of("mine_here:made(target=0.7)", "run"))._policy.replicas == 7


def test_a_policy_of_ones_own_takes_part_in_a_comparison(folder, production):
    names = ["hpa", "mine_here:Fixed", "static(replicas=2)"]
    held_out = HeldOut(production, flat(100.0), 0.0, 0.0, 0.0, 600.0, 2, 1000, names)
    assert [policy.name for policy in build_policies(held_out)] == names


def test_an_entry_point_is_a_name_for_a_policy(folder, production, monkeypatch):
    """As an installed distribution tells it: metadata on the path, read by Python's own reader."""
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[devops_sim.policies]\nfixed = mine_here:Fixed\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    policy = policy_of(choice_of("fixed(replicas=4)", "run"))
    assert policy.name == "fixed(replicas=4)"
    play(lanes(production), policy, 60.0)
    with pytest.raises(PolicyError, match="did you mean 'fixed'"):
        choice_of("fixt", "run")


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("list", "predict: must return a NumPy array of shape (2, 1) (got list)"),
        ("flat", "predict: must return an array of shape (2, 1) (got (2,); rows are lanes, columns are services)"),
        ("floats", "predict: must return whole numbers, dtype int64 (got float64"),
        ("negative", "predict: must return replicas from 0 to 2147483647 (got -1)"),
        ("huge", "predict: must return replicas from 0 to 2147483647 (got 1099511627776)"),
        ("fails", f"mine_here.py, line {line_of('1 / 0')}: ZeroDivisionError: division by zero"),
    ],
)
def test_what_breaks_the_contract_is_refused_at_the_first_prediction(folder, production, says, words):
    policy = policy_of(choice_of(f"mine_here:Fixed(says={says})", "run"))
    with pytest.raises(PolicyError) as wrong:
        play(lanes(production), policy, 60.0)
    assert words in str(wrong.value)
    assert wrong.value.__cause__ is None  # one message, not ours and theirs in turn


def test_scalers_are_one_a_lane(folder, production):
    policy = policy_of(choice_of("mine_here:Fixed(scales=wrong)", "run"))
    with pytest.raises(PolicyError, match="scalers: must return None or a list of 2 Scaler, one a lane"):
        play(lanes(production), policy, 60.0)
    assert isinstance(Scaler.static(1), Scaler)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mine_her:Fixed", "no module 'mine_her' in"),
        ("mine_her:Fixed", "did you mean 'mine_here'?"),
        ("mine_here:Fixd", "has no 'Fixd'; did you mean 'Fixed'?"),
        ("mine_here:NOT_A_POLICY", "must be a class or a function that makes a policy"),
        ("mine_here:Fixed(replica=3)", "replica: unknown setting; did you mean 'replicas'?"),
        ("mine_here:made", "target: required setting is missing"),
        ("mine_here:Lacking", "3 problems"),
        ("mine_here:Lacking", "name: must be an attribute that holds text"),
        ("mine_here:Lacking", "reset: required method is missing"),
        ("mine_here:Failing", f"mine_here.py, line {line_of('no such weights')}: KeyError: 'no such weights'"),
        ("broken_syntax:P", "broken_syntax.py, line 1: SyntaxError"),
        ("needs_more:P", "needs_more.py, line 2: ModuleNotFoundError: No module named 'no_such_library'"),
        ("leaves:P", "leaves.py, line 1: SystemExit: 3"),
    ],
)
def test_what_is_wrong_with_a_module_is_told_with_its_place(folder, text, words):
    (folder / "broken_syntax.py").write_text("class P(:\n")
    (folder / "needs_more.py").write_text("import json\nimport no_such_library\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    assert words in refused(text)


def test_wrong_policies_are_found_before_anything_is_tuned(folder):
    """All that can be made from settings alone is made at once; models and tuned policies come later."""
    choices = choices_of("--policies", ["static", "models:/a@b", "mine_here:Failing"], "evaluate")
    with pytest.raises(PolicyError, match="no such weights"):
        check_made(choices)


def test_results_of_ones_own_policy_are_kept_by_its_sources(folder, production):
    """An edit of the module, or of what it imports from its folder, makes another key; other files do not."""

    def key() -> str:
        for name in ("mine_here", "mine_helps"):
            sys.modules.pop(name, None)
        return HeldOut(production, flat(100.0), 0.0, 0.0, 0.0, 600.0, 2, 1000, ["mine_here:Fixed"]).key

    (folder / "mine_helps.py").write_text("A = 1\n")
    (folder / "mine_here.py").write_text("import mine_helps\n" + OWN)
    keys = [key()]
    (folder / "other.py").write_text("B = 1\n")
    assert key() == keys[0]
    (folder / "mine_helps.py").write_text("A = 1000\n")
    keys.append(key())
    (folder / "mine_here.py").write_text("import mine_helps\n" + OWN + "# edited\n")
    keys.append(key())
    assert len(set(keys)) == 3
    assert sources_of(choice_of("mine_here:Fixed", "run")) == sources_of(choice_of("mine_here:made", "run"))
