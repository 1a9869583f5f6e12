"""What a user sees of a graph of services: classes of requests, warnings, refusals, the picture in the terminal."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from agents.learning.evaluate import EvaluateRequest, evaluate
from agents.policies.clairvoyant import ClairvoyantPolicy
from agents.policies.contract import play
from agents.policies.registry import choice_of, policy_of
from experiments.analysis.summaries import classes_over_seeds, request_classes
from experiments.held_out import policies_document
from experiments.planning.rules import suffered
from experiments.planning.spec import load_spec, spec_from_dict
from experiments.report import ReportData, findings, write_report
from flows.cli import _explained, app
from flows.inputs import warn_of
from flows.terminal.graph import graph_document
from flows.terminal.output import plain
from sim_core.bundled import profile_names
from sim_core.errors import ProfileError
from sim_core.profile import Profile, bundled_profiles, example_profiles, load_profile
from sim_core.simulation import simulate
from sim_core.world import Lane, Scaler, capacity_per_replica
from tests.conftest import flat

PLAIN = load_profile("production").to_dict()
DIAMOND = load_profile("diamond").to_dict()


def service(name: str, *endpoints: dict[str, Any], **container: Any) -> dict[str, Any]:
    """A service of the diamond under another name."""
    made: dict[str, Any] = copy.deepcopy(DIAMOND["services"][0]) | {"name": name, "endpoints": list(endpoints)}
    made["replicas"] = {"min": 1, "max": 3}
    made["container"] |= container
    return made


def endpoint(name: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "steps": list(steps)}


def cpu(seconds: float = 0.01) -> dict[str, Any]:
    return {"cpu": {"seconds": seconds}}


def call(target: str, **more: Any) -> dict[str, Any]:
    return {"call": {"endpoint": target, **more}}


def world(*services: dict[str, Any], requests: list[dict[str, Any]]) -> dict[str, Any]:
    return copy.deepcopy(DIAMOND) | {"services": list(services), "requests": requests}


def two_classes() -> dict[str, Any]:
    """`web` waits for `store`; pings do not, and are promised more. Nobody enters `web.old`, and nobody calls `idle`."""
    return world(
        service("web", endpoint("get", cpu(), call("store.get")), endpoint("ping", cpu(0.002)), endpoint("old", cpu())),
        service("store", endpoint("get", cpu(0.02))),
        service("idle", endpoint("get", cpu())),
        requests=[
            {"name": "page", "share": 3, "endpoint": "web.get"},
            {"name": "ping", "share": 1, "endpoint": "web.ping",
             "slo": {"objective": 0.999, "latency_threshold_seconds": 0.2}},
        ],
    )  # fmt: skip


@pytest.fixture
def file_of(tmp_path):
    """Writes a profile as YAML and gives its path."""

    def write(data: dict[str, Any], name: str = "mine") -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data))
        return str(path)

    return write


def ask(*args: str) -> Any:
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "200"})


# --- names


def test_examples_of_graphs_are_known_by_name_beside_the_three_environments():
    assert profile_names() == [*bundled_profiles(), *example_profiles()]
    assert example_profiles() == ["boutique", "diamond", "front"]
    assert all(load_profile(name).name == name for name in profile_names())
    listed = json.loads(ask("profile", "list", "--json").stdout)["profiles"]
    assert [entry["name"] for entry in listed] == profile_names()
    assert load_profile("front") == load_profile(Path("experiments/profiles/front.yaml").absolute())
    with pytest.raises(ProfileError, match=r"known: .*boutique.*did you mean 'diamond'"):
        load_profile("diamand")


def test_a_specification_names_an_example_too(tmp_path):
    data = {"name": "s", "profile": "diamond", "traffic": {"generator": "diurnal"}, "duration": "1h"}
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(data | {"policies": [{"policy": "hpa"}]}))
    assert load_spec(file).profile == "diamond"


# --- the picture


def test_the_graph_shows_who_calls_whom_how_often_and_what_it_takes():
    """Front calls both sides, both sides call the store: two visits of it a request, 13 ms each where nothing waits."""
    document = graph_document(load_profile("diamond"))
    assert [kind["name"] for kind in document["classes"]] == ["all"]
    by_name = {row["name"]: row for row in document["endpoints"]}
    assert list(by_name) == ["front.get", "left.get", "right.get", "store.get"]
    assert {name: row["visits"] for name, row in by_name.items()} == pytest.approx(
        {"front.get": 1, "left.get": 1, "right.get": 1, "store.get": 2}
    )
    assert by_name["store.get"]["idle_s"] == pytest.approx(0.013) and by_name["store.get"]["cpu_s"] == 0.008
    assert by_name["right.get"]["idle_s"] == pytest.approx(0.015 + 0.013)
    work, both = by_name["front.get"]["steps"]
    assert (work["step"], work["mean_s"]) == ("cpu", 0.005)
    assert [[step["endpoint"] for step in branch] for branch in both["branches"]] == [["left.get"], ["right.get"]]
    shown = ask("profile", "show", "diamond", "--graph").stdout
    assert "cpu 0.005 s, [→ left.get | → right.get]" in shown
    front = ask("profile", "show", "front", "--graph").stdout
    assert "80 % → recommendations" in front and "2.5 × → catalog.item" in front and "(95 % in 1.5 s)" in front
    assert json.loads(ask("profile", "show", "diamond", "--graph", "--json").stdout) == plain(document)


def test_a_plain_profile_has_a_graph_of_its_own():
    (all_requests,) = graph_document(load_profile("experimental"))["classes"]
    assert [(step["endpoint"], step["count"]) for step in all_requests["steps"][1:]] == [("web", 1.0), ("api", 2.0)]


# --- classes


@pytest.fixture(scope="module")
def played():
    """Two classes at a load that their pods carry, three seeds."""
    profile = Profile.from_dict(two_classes())
    lanes = [Lane(profile, flat(20.0), seed, scaler=Scaler.static(3)) for seed in range(3)]
    return profile, simulate(lanes, 600.0)


def test_figures_of_classes_add_up_to_those_of_the_whole(played):
    """Requests by class are the world's, in their shares; pings wait for nobody, and are the faster ones."""
    profile, simulation = played
    found = classes_over_seeds(simulation.classes)
    assert list(found) == ["page", "ping"] == list(request_classes(profile))
    requests = {name: figures["requests"]["mean"] for name, figures in found.items()}
    assert requests["page"] / sum(requests.values()) == pytest.approx(0.75, abs=0.01)
    whole = simulation.indicators
    served = whole["throughput_per_s"] * 600.0 / (1.0 - whole["error_ratio"])
    assert sum(requests.values()) == pytest.approx(served.mean(), rel=1e-9)
    assert found["ping"]["latency_mean_s"]["mean"] < found["page"]["latency_mean_s"]["mean"]
    assert found["page"]["latency_mean_s"]["ci95"][0] < found["page"]["latency_mean_s"]["mean"]


def test_each_class_has_its_own_promise_or_that_of_the_whole(played):
    promised = request_classes(played[0])
    assert promised["page"]["slo"] == {"objective": 0.99, "latency_threshold_seconds": 0.3}
    assert promised["ping"]["slo"] == {"objective": 0.999, "latency_threshold_seconds": 0.2}
    assert [promised[name]["own_slo"] for name in ("page", "ping")] == [False, True]
    assert [promised[name]["share"] for name in ("page", "ping")] == pytest.approx([0.75, 0.25])


def test_run_shows_classes_where_there_are_several(file_of):
    """With the SLO of each beside it; of a plain profile JSON alone holds its one class."""
    path = file_of(two_classes())
    common = ("--duration", "10m", "--no-track", "--policy", "static(replicas=3)")
    done = ask("run", path, *common)
    assert done.exit_code == 0, done.output
    assert "Requests by class (* keeps its SLO)" in done.stdout
    assert "99 % in 0.3 s" in done.stdout and "99.9 % in 0.2 s" in done.stdout
    plain_one = ask("run", "production", *common)
    assert "Requests by class" not in plain_one.stdout
    document = json.loads(ask("run", path, *common, "--json").stdout)
    assert list(document["classes"]) == list(document["policies"]["static(replicas=3)"]["classes"]) == ["page", "ping"]
    assert document["policies"]["static(replicas=3)"]["classes"]["ping"]["requests"]["mean"] > 0


@pytest.fixture(scope="module")
def evaluation():
    profile = Profile.from_dict(two_classes())
    policies = [policy_of(choice_of(name, "evaluation")) for name in ("static(replicas=3)", "hpa")]
    return profile, evaluate(EvaluateRequest(profile, flat(20.0), policies, 0.0, 600.0, seeds=3))


def test_an_evaluation_tells_classes_apart(evaluation):
    """One row a policy and class; in the document they stand under their policy."""
    _, compared = evaluation
    rows = compared.classes
    assert list(zip(rows["policy"], rows["request_class"], strict=True)) == [
        ("static(replicas=3)", "page"), ("static(replicas=3)", "ping"), ("hpa", "page"), ("hpa", "ping")
    ]  # fmt: skip
    assert rows["slo_objective"].tolist() == [0.99, 0.999] * 2
    document = policies_document(compared, 600.0)
    attained = document["hpa"]["classes"]["ping"]["slo_attainment"]
    assert attained["mean"] == rows["slo_attainment"].iloc[3]
    assert attained["ci95"] == [rows[f"slo_attainment_ci95_{end}"].iloc[3] for end in ("low", "high")]


def test_the_report_shows_each_class_against_its_own_slo(evaluation, tmp_path):
    """A column a policy, a row a class with its SLO; nothing of it where one class is all there is."""
    profile, compared = evaluation
    table = compared.table.drop(columns=["keeps_slo", "attainment_not_worse"])

    def page(classes: pd.DataFrame) -> str:
        data = ReportData("t", profile.to_dict(), None, {"name": "flat"}, pd.DataFrame(), table, classes=classes)
        return write_report(data, tmp_path / "r.html").read_text()

    shown = page(compared.classes)
    section = shown.split("<h3>Requests by class</h3>", 1)[1].split("</table>", 1)[0]
    assert "99.9 % within 200 ms" in section and section.count("<tr>") == 3
    assert "Requests by class" not in page(compared.classes[compared.classes["request_class"] == "page"])


# --- what is allowed but hardly meant


def test_warnings_are_told_by_check_and_before_a_run_once(file_of):
    """An endpoint that nobody enters, and a service of which that is so; on stderr, and in JSON."""
    path = file_of(two_classes())
    expected = [
        "services.0.endpoints.2: nobody enters web.old: no request and no call leads there",
        "services.2.endpoints.0: nobody enters idle.get: no request and no call leads there",
    ]
    checked = ask("profile", "check", path)
    assert checked.exit_code == 0 and f"{path}: valid, 2 warnings" in checked.stdout
    assert [line for line in checked.stdout.splitlines() if line.startswith("Warning: ")] == [
        f"Warning: {warning}" for warning in expected
    ]
    assert json.loads(ask("profile", "check", path, "--json").stdout)["warnings"] == expected
    run = ask(
        "run", path, "--duration", "2m", "--no-track", "--policy", "hpa", "--policy", "static(replicas=2)", "--json"
    )
    assert [line for line in run.stderr.splitlines() if line.startswith("Warning: ")] == [
        f"Warning: {warning}" for warning in expected
    ]
    assert json.loads(run.stdout)["warnings"] == expected
    assert json.loads(ask("profile", "check", "boutique", "--json").stdout)["warnings"] == []


def test_the_report_of_a_sweep_tells_the_warnings_of_its_profiles_once(file_of, tmp_path):
    """Two worlds of one profile: each of its two endpoints that nobody enters is told once."""
    file = tmp_path / "warned.yaml"
    data = {"name": "warned", "profile": str(file_of(two_classes())), "traffic": {"generator": "diurnal"}}
    data |= {"duration": "1h", "policies": [{"policy": "hpa"}], "parameters": {"slo.objective": [0.98, 0.99]}}
    file.write_text(yaml.safe_dump(data))
    spec = load_spec(file)
    told = list(findings.of_profiles(spec, load_profile(spec.profile)))
    assert [line.split(": ")[1] for line in told] == ["nobody enters web.old", "nobody enters idle.get"]


def test_a_timeout_below_the_mean_time_says_what_will_happen():
    data = two_classes()
    data["services"][0]["calls"] = [{"service": "store", "client": {"timeout_seconds": 0.015, "max_retries": 2}}]
    said: list[str] = []
    profile = Profile.from_dict(data)
    found = warn_of([profile, profile], said.append)
    (timeout,) = [line for line in found if "time out" in line]
    assert "most calls of web.get to store.get will time out and be retried up to 2 times" in timeout
    assert "timeout of 0.015 s" in timeout and "0.02 s on an idle system" in timeout
    assert said == [f"Warning: {line}" for line in found]  # each once, however many profiles hold it


# --- refusals


def refusal(capsys, *args: str) -> tuple[int, str]:
    """Exit code of a refused command and what it says."""
    done = ask(*args)
    assert done.exception is not None
    code = _explained(done.exception)
    return code, capsys.readouterr().err


def test_all_that_is_wrong_with_a_graph_is_told_at_once(file_of, capsys):
    """A cycle, a target that is not there, a probability above 1, a join of nothing: one message, exit code 2."""
    broken = world(
        service("web", endpoint("get", cpu(), call("stroe.get"), {"parallel": []})),
        service("store", endpoint("get", call("cache.get", probability=1.5))),
        service("cache", endpoint("get", call("store.get"))),
        requests=[{"name": "page", "share": 1, "endpoint": "web.get"}],
    )
    code, said = refusal(capsys, "profile", "check", file_of(broken))
    assert code == 2 and "4 problems" in said
    for words in (
        "services.0.endpoints.0.steps.1.call.endpoint: no such endpoint; did you mean 'store.get'? (got 'stroe.get')",
        "services.0.endpoints.0.steps.2.parallel: must have at least 1 branch: this is a join of nothing",
        "services.1.endpoints.0.steps.0.call.probability: must be at most 1 (got 1.5)",
        "calls must not go in a circle: store.get -> cache.get -> store.get",
    ):
        assert words in said


def test_an_engine_of_requests_on_much_traffic_says_how_long_it_takes_first(monkeypatch, capsys):
    """50,000 requests/s for a day: the estimate is told before anything is played."""
    from agents.policies import contract
    from flows.commands.run import RunRequest, run_lanes
    from flows.inputs import TrafficChoice
    from sim_core import workload

    monkeypatch.setattr(workload, "read_trace", lambda path: flat(50_000.0, duration_s=86_400.0))

    class Began(Exception):
        """Playing has begun."""

    def begin(*args: Any, **more: Any) -> None:
        raise Began

    monkeypatch.setattr(contract, "play", begin)
    choice = TrafficChoice(Path(__file__), "diurnal", 0, None)
    request = RunRequest("production", [], choice, ["hpa"], None, None, "requests", 0, 1, "0d", "24h", None)
    with pytest.raises(Began):
        run_lanes(request)
    told = capsys.readouterr().err
    assert "--engine requests: about 4.3 billion requests, each an event: about" in told
    assert "--engine fluid takes about" in told


@pytest.mark.parametrize("engine", ["fluid", "requests"])
def test_an_unstable_queue_is_reported_as_saturated(engine, file_of):
    """Three times what the pods of a graph carry: most requests fail, nothing is NaN, and JSON stays strict."""
    profile = Profile.from_dict(two_classes())
    rate = 3.0 * 2 * capacity_per_replica(profile)
    lanes = [Lane(profile, flat(rate), 0, scaler=Scaler.static(2))]
    played = simulate(lanes, 300.0, 60.0, engine=engine)
    row = played.indicators.iloc[0]
    assert 0.4 < row["error_ratio"] < 1.0 and row["slo_attainment"] < 0.6
    measured = ["slo_attainment", "error_ratio", "latency_mean_s", "latency_p99_s", "error_budget_left"]
    assert np.isfinite(played.indicators[measured]).all(axis=None)
    assert np.isfinite(played.classes[measured]).all(axis=None)
    busy = played.services.set_index("service")
    assert busy.loc["store", "utilization"] > 0.9 and np.isfinite(busy.loc[["web", "store"], "latency_mean_s"]).all()
    assert busy.loc["idle", "utilization"] == 0.0 and busy.loc["idle", "calls"] == 0.0
    assert played.timeline is not None and np.isfinite(played.timeline["error_ratio"]).all()
    path = file_of(two_classes())
    settings = ("--set", "services.web.replicas.max=2", "--set", "services.store.replicas.max=2")
    done = ask("run", path, "--engine", engine, "--duration", "2m", "--no-track", "--json", *settings)

    def refuse(word: str) -> None:
        raise ValueError(word)

    json.loads(done.stdout, parse_constant=refuse)


# --- specifications


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("requests", True),
        ("requests.page.share", True),
        ("requests.0.shares", True),
        ("requests.page.shares.3", True),
        ("requests.page.calls.0.count", True),
        ("requests.page.slo.objective", False),
        ("services.web.endpoints", True),
        ("services.web.endpoints.get.steps.0.cpu.seconds", True),
        ("services.web.endpoints.get.steps.1.parallel.0.0.wait.seconds", True),
        ("services.web.calls.store.client.timeout_seconds", False),
        ("ingress.calls.web.pass_deadline", False),
        ("services.web.container.cpu_sharing", False),
        ("services.web.load_balancing", False),
        ("services.web.container.cpu_seconds_per_request", True),
        ("services.web.container", False),
    ],
)
def test_what_endpoints_do_and_what_is_asked_is_suffered_and_how_they_call_is_chosen(path, expected):
    assert suffered(path) is expected


def test_a_specification_reaches_into_endpoints_steps_edges_and_requests():
    """Parameters and scenarios set them; a suffered one among the parameters is warned of."""
    timeout = "services.web.calls.recommendations.client.timeout_seconds"
    work = "services.web.endpoints.page.steps.0.cpu.seconds"
    likely = "services.web.endpoints.page.steps.1.parallel.2.0.call.probability"
    spec = spec_from_dict(
        {
            "name": "s",
            "profile": "front",
            "traffic": {"generator": "diurnal"},
            "duration": "1h",
            "policies": [{"policy": "hpa"}],
            "parameters": {timeout: [0.2, 0.3], work: [0.004, 0.008]},
            "scenarios": {likely: [0.5, 1.0], "requests.checkout.slo.objective": 0.9},
        }
    )
    (warning,) = spec.warnings()
    assert warning.startswith(f"parameters.{work} is suffered rather than chosen")
    changed = load_profile("front").with_overrides({timeout: 0.2, work: 0.008, likely: 0.5}).to_dict()
    web = changed["services"][0]
    assert web["calls"][0]["client"]["timeout_seconds"] == 0.2
    page = web["endpoints"][0]["steps"]
    assert page[0]["cpu"]["seconds"] == 0.008 and page[1]["parallel"][2][0]["call"]["probability"] == 0.5
    with pytest.raises(ProfileError, match=r"steps\.9: no such item \(there are: 0 to 2\)"):
        load_profile("front").with_overrides({"services.web.endpoints.page.steps.9.cpu.seconds": 1})
    with pytest.raises(ProfileError, match="did you mean 'seconds'"):
        load_profile("front").with_overrides({"services.web.endpoints.page.steps.0.cpu.second": 1})


# --- policies and agents


def test_the_clairvoyant_leaves_services_alone_that_nobody_asks_anything_of():
    """`idle` is never entered: its least pods do. `bank` burns no CPU: its workers are what runs out, 40 of 2 s in a
    pod serve 20 calls/s."""
    data = two_classes()
    data["services"][0]["endpoints"][0]["steps"].append(call("bank.pay"))
    data["services"].append(service("bank", endpoint("pay", {"wait": {"seconds": 2.0}}), workers=40))
    data["slo"]["latency_threshold_seconds"] = 20.0
    data["requests"][1]["slo"]["latency_threshold_seconds"] = 20.0
    for each in data["services"]:
        each["client"] = {**each["client"], "timeout_seconds": 30.0}
    profile = Profile.from_dict(data)
    policy = ClairvoyantPolicy()
    lanes = [Lane(profile, flat(40.0), 0)]
    played = play(lanes, policy, 1200.0)
    assert played.indicators["slo_attainment"][0] >= 0.99
    plan = policy._schedules[0]
    assert (plan[:, 2] == 1).all()
    assert (plan[:, 3] >= 2).all()  # 30 pages/s
