"""Promotion: a model becomes champion by a comparison on held-out traffic, and the gate says what it failed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from agents.learning.evaluate import Evaluation
from experiments.held_out import DEFAULT_STEPS, HeldOut
from experiments.store.state import StateDir
from experiments.tracking import CHALLENGER, CHAMPION, MlflowTracker, resolve_model
from experiments.training.gate import Gate, not_evaluated, promotion_gate, reigning_champion
from experiments.training.job import Job, Trained, register
from flows.terminal.progress import Progress
from flows.train import evaluate_visibly, kept_back
from sim_core.errors import ModelError
from sim_core.profile import load_profile
from tests.conftest import flat

SEEDS = 5
CHAMPION_URI = f"models:/autoscaler-production@{CHAMPION}"


def evaluation_of(seeds: int = SEEDS, **policies: tuple[float, float]) -> Evaluation:
    """An evaluation under an SLO of 99 % with (mean cost, attainment) of each policy.

    Costs of a policy spread by a dollar over the seeds, the same way for all of them: pairs differ by little.
    """
    rows = []
    for name, (cost, attained) in policies.items():
        policy = {"champion": CHAMPION_URI}.get(name, name.replace("_", "-"))
        for k in range(seeds):
            noise = (k - (seeds - 1) / 2) * 0.5
            own = 0.01 * (len(rows) % 3 - 1)
            rows.append(
                {"policy": policy, "seed": 1000 + k, "cost_usd": cost + noise + own, "slo_attainment": attained}
            )
    return Evaluation(pd.DataFrame(), pd.DataFrame(rows), {}, {})


def gate_of(seeds: int = SEEDS, **policies: tuple[float, float]) -> Gate:
    return promotion_gate(evaluation_of(seeds, **policies), objective=0.99)


def test_a_champion_keeps_the_slo_and_is_cheaper_than_its_rivals():
    """Pair by pair: 0.3 USD tell, although each policy's costs spread by 2 USD over the seeds."""
    won = gate_of(agent=(9.7, 0.995), hpa_tuned=(10.0, 0.995))
    assert won.passed and won.failures == ()
    assert won.cost_differences["hpa-tuned"]["mean"] == pytest.approx(-0.3, abs=0.02)
    assert won.tags()["gate"] == "passed"
    assert "99.500 %" in won.reason and "0.3" in won.reason and "less" in won.reason
    assert gate_of(agent=(8.0, 0.995), hpa_tuned=(10.0, 0.995), champion=(9.0, 0.995)).passed


def test_a_rival_that_misses_the_slo_sets_no_price():
    gate = gate_of(agent=(11.0, 0.995), hpa_tuned=(10.0, 0.98))
    assert gate.passed
    assert "hpa-tuned misses the SLO with 98.000 %" in gate.reason


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ({"agent": (11.0, 0.995), "hpa_tuned": (10.0, 0.995)}, ["cost: 0.998 USD more", "than hpa-tuned"]),
        ({"agent": (9.0, 0.989999), "hpa_tuned": (10.0, 0.995)}, ["SLO: attains 98.999 %, the objective is 99.000 %"]),
        ({"agent": (9.0, 0.995), "hpa_tuned": (10.0, 0.995), "champion": (8.0, 0.995)}, [f"than {CHAMPION_URI}"]),
        ({"agent": (9.0, 0.995)}, ["evidence: hpa-tuned is not among the policies"]),
        ({"agent": (10.0, 0.995), "hpa_tuned": (10.0, 0.995)}, ["the interval must lie below 0"]),
        ({"hpa_tuned": (10.0, 0.995)}, ["not evaluated: the agent is not among the policies"]),
    ],
)
def test_the_gate_says_what_was_failed_with_figures(policies, said):
    gate = gate_of(**policies)
    assert not gate.passed and gate.tags()["gate"] == "failed"
    for words in said:
        assert words in gate.reason
    json.dumps(gate.to_dict())


def test_one_or_two_seeds_are_no_evidence():
    """Cheaper in both of two seeds by ten standard errors, and not promoted; in three, promoted."""
    rivals = {"agent": (5.0, 0.995), "hpa_tuned": (10.0, 0.995)}
    for seeds in (1, 2):
        gate = gate_of(seeds, **rivals)
        assert not gate.passed
        assert f"evidence: {seeds} paired seeds, at least 3 are needed" in gate.failures
    assert gate_of(3, **rivals).passed


def test_every_failure_is_said_at_once():
    gate = gate_of(1, agent=(11.0, 0.98), hpa_tuned=(10.0, 0.995))
    assert [failure.partition(":")[0] for failure in gate.failures] == ["evidence", "SLO", "cost"]
    assert "no interval" in gate.reason


# --- The registry


@pytest.fixture(scope="module")
def policy() -> bytes:
    """A learned policy with any weights."""
    from agents.env import DevOpsVecEnv, EnvSpec
    from agents.learning.export import export_onnx
    from agents.learning.train import make_ppo
    from agents.policies.settings import RULE

    env = DevOpsVecEnv(EnvSpec(load_profile("production"), flat(100.0)), 1)
    return export_onnx([make_ppo(env, 0).policy], {setting.name: setting.default for setting in RULE}, 1.0)


def job_of(**changes: object) -> Job:
    given = {"start_s": 0.0, "end_s": 7200.0, "steps": 20_000, "seed": 1, "lanes": 16, "held_out_s": 3600.0}
    return Job(load_profile("production"), flat(100.0, 10_800.0), **(given | changes))


@pytest.fixture
def registry(tmp_path, policy, monkeypatch):
    """(state folder, tracker, how to log a model of a job there)."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    state = StateDir.open(tmp_path / "state")
    tracker = MlflowTracker.open(state, "production")

    def log(job: Job, content: bytes = policy) -> str:
        run_id = tracker.start("training", job.key, "training", {})
        uri = tracker.log_model(run_id, content, {"training": job.describe()})
        assert uri is not None and tracker.warning is None
        return uri

    return state, tracker, log


def test_a_first_model_stays_challenger_unless_it_passed_the_gate(registry):
    """A 20k-step model that nobody evaluated is no champion, although there is none to beat; who asks for one is told."""
    state, tracker, log = registry
    job = job_of()
    uri = log(job)
    registered = register(tracker, uri, job, not_evaluated("no traffic was kept back"))
    assert registered["aliases"] == [CHALLENGER]
    assert registered["uri"] == f"models:/autoscaler-production@{CHALLENGER}"
    assert tracker.alias_version("production", CHAMPION) is None
    with pytest.raises(ModelError, match="no model of 'autoscaler-production' has been promoted yet") as refused:
        resolve_model(CHAMPION_URI, state)
    assert f"models:/autoscaler-production@{CHALLENGER}" in str(refused.value)
    assert "not evaluated: no traffic was kept back" in str(refused.value)

    won = gate_of(agent=(9.0, 0.995), hpa_tuned=(10.0, 0.995))
    assert register(tracker, uri, job, won)["aliases"] == [CHALLENGER, CHAMPION]
    version = tracker._client().get_model_version("autoscaler-production", "1")
    assert (version.tags["gate"], version.tags["gate_reason"]) == ("passed", won.reason)  # what was decided last
    assert resolve_model(CHAMPION_URI, state).version == "1"


def test_the_champion_that_can_be_compared_takes_part(registry, policy):
    """Not where it is the challenger itself, was trained on another profile, or reads observations of another version."""
    import io

    import onnx
    import torch

    state, tracker, log = registry
    profile = load_profile("production")
    assert reigning_champion(profile, b"", tracker, state) == {}
    passed = gate_of(agent=(9.0, 0.995), hpa_tuned=(10.0, 0.995))
    register(tracker, log(job_of()), job_of(), passed)
    (name, (content, metadata)), *_ = reigning_champion(profile, b"a challenger", tracker, state).items()
    assert name == CHAMPION_URI and metadata["training"]["seed"] == 1
    assert reigning_champion(profile, content, tracker, state) == {}
    changed = profile.with_overrides({"services.api.replicas.max": 50})
    assert reigning_champion(changed, b"a challenger", tracker, state) == {}

    file = io.BytesIO()
    torch.onnx.export(torch.nn.Linear(3, 1), (torch.zeros((2, 3)),), file, dynamo=False, opset_version=17)
    assert onnx.load_from_string(file.getvalue())
    register(tracker, log(job_of(seed=2), file.getvalue()), job_of(seed=2), passed)
    assert reigning_champion(profile, b"a challenger", tracker, state) == {}


def test_the_comparison_before_promotion_is_on_what_was_kept_back(registry, policy, tmp_path):
    """Tuned on what was trained on, played on what follows; the HPA is tuned well, however short the training was."""
    state, tracker, _ = registry
    model = Path(tmp_path / "policy.onnx")
    model.write_bytes(policy)
    job = job_of()
    held_out = kept_back(job, Trained(job.key, model, {}, [], resumed=False), tracker, state)
    assert (held_out.tune_start_s, held_out.tune_end_s) == (0.0, 7200.0)
    assert (held_out.start_s, held_out.duration_s) == (7200.0, 3600.0)
    assert list(held_out.names) == ["hpa-tuned", "agent"]
    assert held_out.seeds >= 3
    assert held_out.budget_steps == DEFAULT_STEPS > job.steps
    nothing = job_of(held_out_s=0.0)
    assert kept_back(nothing, Trained(nothing.key, model, {}, [], resumed=False), tracker, state) is None


def test_mlflow_is_told_where_there_was_no_gap_to_close(registry):
    """Two quiet hours, which the tuned HPA and the clairvoyant policy both spend at `minReplicas`."""
    state, tracker, _ = registry
    names = ["hpa-tuned", "clairvoyant", "static"]
    held_out = HeldOut(load_profile("production"), flat(20.0, 10_800.0), 0.0, 3600.0, 3600.0, 7200.0, 3, 1000, names)
    with Progress() as progress:
        evaluation = evaluate_visibly(held_out, state, tracker, progress)
    assert evaluation.gap_closed == {} and tracker.warning is None
    (run,) = tracker._client().search_runs([tracker.experiment_id()], "tags.kind = 'evaluation'")
    assert run.data.params["gap_closed"] == "no room: HPA and clairvoyant cost the same"
    assert not [name for name in run.data.metrics if "gap_closed" in name]
