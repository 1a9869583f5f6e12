"""The profile schema: what it accepts, and every message it gives."""

import copy
import json
import math
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

import sim_core.profile
from sim_core.components import COMPONENTS
from sim_core.controlplane import hpa_records
from sim_core.documents import Section, is_list, list_depth, section_of
from sim_core.errors import InputError, ProfileError
from sim_core.profile import (
    MAX_POLICIES,
    Profile,
    bundled_profiles,
    ideal_latency_seconds,
    load_profile,
    profile_model,
)
from sim_core.workload import Trace
from sim_core.world import Lane, build_tables

PRODUCTION = load_profile("production").to_dict()
TWO_SERVICES = load_profile("experimental").to_dict()
GONE = object()


def changed(changes, base=PRODUCTION):
    """A document with other values at dotted paths; GONE removes a key."""
    document = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        node = document
        for step in parents:
            node = node[step]
        if value is GONE:
            del node[last]
        else:
            node[last] = value
    return document


def problems_of(document):
    with pytest.raises(ProfileError) as refused:
        Profile.from_dict(document, "file.yaml")
    return refused.value.problems


def sections(section=Profile, path="", around=()):
    """Every section class of the schema with its dotted path, `[]` for the items of a list."""
    yield path, section
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if below is not None and below not in (section, *around):
            at = f"{path}.{name}{'[]' * list_depth(field.annotation)}".lstrip(".")
            yield from sections(below, at, (section, *around))


def properties(section):
    """What the JSON schema says of each field of a section."""
    schema = section.model_json_schema()
    return (schema["$defs"][section.__name__] if "$ref" in schema else schema)["properties"]


# --- the bundled profiles


def test_the_three_environments_come_with_the_package():
    assert bundled_profiles() == ["development", "experimental", "production"]


@pytest.mark.parametrize("name", bundled_profiles())
def test_a_bundled_profile_loads_and_is_named_like_its_file(name):
    assert load_profile(name).name == name


OF_GRAPHS = {  # and what pods and proxies of a plain profile have by default
    "requests",
    *(f"{owner}.calls" for owner in ("ingress", "services")),
    *(f"{owner}.{key}" for owner in ("ingress", "services") for key in ("balancer_nodes", "slow_start_seconds")),
    *(f"{owner}.sticky_share" for owner in ("ingress", "services")),
    "services.load_balancing",
    "services.endpoints",
    "services.container.cpu_sharing",
    "services.container.cfs_quota_period_seconds",
}


@pytest.mark.parametrize("name", bundled_profiles())
def test_a_bundled_profile_sets_every_field_of_the_schema(name):
    """An SRE copies these files: nothing is hidden in a default, but for the parts that a plain profile does not have."""
    path = Path(sim_core.profile.__file__).parent / "profiles" / f"{name}.yaml"
    written = yaml.safe_load(path.read_text())

    def missing(section, data, at=""):
        for key, field in section.model_fields.items():
            if key not in data:
                yield at + key
            elif (below := section_of(field.annotation)) and data[key] is not None:
                items = data[key] if is_list(field.annotation) else [data[key]]
                for item in items:
                    yield from missing(below, item, f"{at}{key}.")

    assert set(missing(Profile, written)) <= OF_GRAPHS | ({"services.queries"} if name == "experimental" else set())


def test_every_field_and_section_is_described_and_every_number_is_bounded():
    checked = 0
    for path, section in sections():
        assert section.__doc__ and section.__doc__ != Section.__doc__, path
        for name, schema in properties(section).items():
            assert schema.get("description"), f"{path}.{name}"
            for plain in schema.get("anyOf", [schema]):
                if plain.get("type") in ("number", "integer"):
                    assert {"minimum", "exclusiveMinimum", "ge", "gt"} & plain.keys(), (
                        f"{path}.{name} has no lower bound"
                    )
                    assert {"maximum", "exclusiveMaximum", "le", "lt"} & plain.keys(), (
                        f"{path}.{name} has no upper bound"
                    )
                    checked += 1
    assert checked > 60  # else the walk found nothing


def test_numbers_with_units_say_so():
    """A description ends its quantity with the unit in brackets, as everywhere in the project."""
    for path, section in sections():
        for name, schema in properties(section).items():
            if {plain.get("type") for plain in schema.get("anyOf", [schema])} & {"number", "integer"}:
                assert re.search(r"\[.+\]", schema["description"]), f"{path}.{name}"


def test_production_is_sized_as_its_comments_say():
    """At 100 pods and 70 % CPU: 2,800 requests/s, primary 42 % busy with writes, replicas 40 % with reads."""
    profile = load_profile("production")
    api, database, cache = profile.services[0], profile.database, profile.cache
    load_per_s = api.replicas.max * 0.7 * api.container.cpu_limit_cores / api.container.cpu_seconds_per_request
    assert load_per_s == pytest.approx(2800)
    writes_per_s = load_per_s * api.queries.writes_per_call
    assert writes_per_s * database.write_seconds / database.cores == pytest.approx(0.42)
    hit_ratio = lru_hit_ratio(cache.keys, cache.zipf_exponent, cache.capacity_keys)
    assert hit_ratio == pytest.approx(0.907, abs=5e-4)
    reads_per_s = load_per_s * api.queries.reads_per_call
    database_reads_per_s = reads_per_s * (1 - api.queries.cacheable_share * 0.9)
    assert database_reads_per_s * database.read_seconds / (database.read_replicas * database.cores) == pytest.approx(
        0.4, abs=2e-3
    )
    cold = reads_per_s * database.read_seconds / (database.read_replicas * database.cores)
    assert cold == pytest.approx(2.1)
    assert api.replicas.max * database.pool_size_per_pod <= database.max_connections - database.reserved_connections


def lru_hit_ratio(keys, exponent, capacity):
    """Che's approximation (Che, Tung, Wang 2002): every key stays for one time t with sum(1 - e^(-p t)) = capacity."""
    popularity = np.arange(1, keys + 1, dtype=float) ** -exponent
    popularity /= popularity.sum()
    stay = brentq(lambda t: (1 - np.exp(-popularity * t)).sum() - capacity, capacity / 2, 1e12)
    return float((popularity * (1 - np.exp(-popularity * stay))).sum())


# --- every rule, with its exact message

API, DB = "services.0", "database"
POLICY = {"type": "Pods", "value": 1, "period_seconds": 15}
FIELD_RULES = [
    ({"name": "My App"}, "name: must match ^[a-z]([-a-z0-9]*[a-z0-9])?$ (got 'My App')"),
    ({"name": "a" * 64}, f"name: must have at most 63 characters (got '{'a' * 56}...)"),
    ({"name": 3}, "name: must be text (got 3)"),
    ({"description": ""}, "description: must have at least 1 characters (got '')"),
    ({"tick_seconds": 0.01}, "tick_seconds: must be at least 0.1 (got 0.01)"),
    ({"tick_seconds": 6}, "tick_seconds: must be at most 5 (got 6)"),
    ({"slo.objective": 0}, "slo.objective: must be greater than 0 (got 0)"),
    ({"slo.objective": 1}, "slo.objective: must be less than 1 (got 1)"),
    # what would vanish beside other numbers, and leave 0 / 0
    (
        {f"{API}.container.cpu_request_cores": 5e-4},
        f"{API}.container.cpu_request_cores: must be at least 0.001 (got 0.0005)",
    ),
    (
        {f"{API}.container.cpu_seconds_per_request": 1e-300},
        f"{API}.container.cpu_seconds_per_request: must be at least 1e-06 (got 1e-300)",
    ),
    ({f"{API}.calls_per_request": 1e-9}, f"{API}.calls_per_request: must be at least 0.001 (got 1e-09)"),
    ({"database.cores": 1e-9}, "database.cores: must be at least 0.001 (got 1e-09)"),
    ({"database.read_seconds": 1e-9}, "database.read_seconds: must be at least 1e-06 (got 1e-09)"),
    ({"database.write_seconds": 1e-9}, "database.write_seconds: must be at least 1e-06 (got 1e-09)"),
    (
        {"cache.lookup_seconds": 1e-9, "cache.server_seconds": 0},
        "cache.lookup_seconds: must be at least 1e-06 (got 1e-09)",
    ),
    ({"slo.objective": True}, "slo.objective: must be a number (got true)"),
    ({"slo.objective": "0.99"}, "slo.objective: must be a number (got '0.99')"),
    ({"slo.objective": math.nan}, "slo.objective: must be a finite number (got nan)"),
    ({"slo.objective": None}, "slo.objective: must be a number (got null)"),
    ({"slo.latency_threshold_seconds": math.inf}, "slo.latency_threshold_seconds: must be a finite number (got inf)"),
    ({"slo": 5}, "slo: must be a mapping of keys (got 5)"),
    ({"slo": GONE}, "slo: required key is missing"),
    (
        {"ingress.load_balancing": "round-robin"},
        "ingress.load_balancing: must be one of 'random', 'round_robin', 'least_outstanding' or 'power_of_two' "
        "(got 'round-robin'); "
        "did you mean 'round_robin'?",
    ),
    ({"services": []}, "services: must have at least 1 items (got a list of 0)"),
    ({"services": {"api": {}}}, "services: must be a list (got a mapping)"),
    ({"services": None}, "services: must be a list (got null)"),
    ({"services.0": "api"}, "services.0: must be a mapping of keys (got 'api')"),
    ({f"{API}.replicas.max": 5001}, f"{API}.replicas.max: must be at most 5000 (got 5001)"),
    ({f"{API}.replicas.max": 10.0}, f"{API}.replicas.max: must be a whole number (got 10.0)"),
    ({f"{API}.replicas.max": 10.5}, f"{API}.replicas.max: must be a whole number (got 10.5)"),
    ({f"{API}.replicas.max": True}, f"{API}.replicas.max: must be a whole number (got true)"),
    ({f"{API}.replicas.max": "10"}, f"{API}.replicas.max: must be a whole number (got '10')"),
    ({f"{API}.replicas.max": GONE}, f"{API}.replicas.max: required key is missing"),
    ({f"{API}.replicas.maximum": 3}, f"{API}.replicas.maximum: unknown key; did you mean 'max'?"),
    ({f"{API}.container.worker": 3}, f"{API}.container.worker: unknown key; did you mean 'workers'?"),
    ({f"{API}.client.max_retries": 4}, f"{API}.client.max_retries: must be at most 3 (got 4)"),
    (
        {f"{API}.autoscaler.stabilisation_window_seconds": 60},
        f"{API}.autoscaler.stabilisation_window_seconds: unknown key; did you mean 'stabilization_window_seconds'? "
        "(it belongs to behavior.scale_up and behavior.scale_down)",
    ),
    (
        {f"{API}.pool_size_per_pod": 4},
        f"{API}.pool_size_per_pod: unknown key; did you mean 'pool_size_per_pod'? (it belongs to database)",
    ),
    (
        {f"{API}.autoscaler.behavior": {"scale_down": {"stabilization_window_seconds": 3601}}},
        f"{API}.autoscaler.behavior.scale_down.stabilization_window_seconds: must be at most 3600 (got 3601)",
    ),
    (
        {f"{API}.autoscaler.behavior": {"scale_up": {"policies": []}}},
        f"{API}.autoscaler.behavior.scale_up.policies: must have at least 1 items (got a list of 0)",
    ),
    (
        {
            f"{API}.autoscaler.behavior": {
                "scale_up": {"policies": [{"type": "Pods", "value": 0, "period_seconds": 15}]}
            }
        },
        f"{API}.autoscaler.behavior.scale_up.policies.0.value: must be greater than 0 (got 0)",
    ),
    (
        {
            f"{API}.autoscaler.behavior": {
                "scale_up": {"policies": [{"type": "Pods", "value": 1, "period_seconds": 1801}]}
            }
        },
        f"{API}.autoscaler.behavior.scale_up.policies.0.period_seconds: must be at most 1800 (got 1801)",
    ),
    (
        {f"{API}.autoscaler.behavior": {"scale_up": {"policies": [POLICY] * 9}}},
        f"{API}.autoscaler.behavior.scale_up.policies: must have at most 8 items (got a list of 9)",
    ),
    (
        {f"{API}.autoscaler.behavior": {"scale_up": {"select_policy": "max"}}},
        f"{API}.autoscaler.behavior.scale_up.select_policy: must be one of 'Max', 'Min' or 'Disabled' (got 'max'); "
        "did you mean 'Max'?",
    ),
    ({"tick_seconds": 10**400}, "tick_seconds: must be a number (got a whole number of 1329 bits)"),
    ({"colour": "red"}, "colour: unknown key"),
]
CROSS_RULES = [
    (  # as good as 0, and a multiple of every tick
        {"telemetry.scrape_interval_seconds": 1e-12, "telemetry.delay_seconds": 0},
        "telemetry.scrape_interval_seconds: must be at least tick_seconds 1 (got 1e-12)",
    ),
    (
        {"controller.sync_period_seconds": 1e-12, "controller.downscale_stabilization_window_seconds": 0},
        "controller.sync_period_seconds: must be at least tick_seconds 1 (got 1e-12)",
    ),
    (
        {f"{API}.queries.writes_per_call": 1e-300},
        f"{API}.queries.writes_per_call: must be 0 or at least 1e-06 (got 1e-300)",
    ),
    ({f"{API}.replicas.min": 101}, f"{API}.replicas.min: must be at most replicas.max 100 (got 101)"),
    ({f"{API}.replicas.initial": 1}, f"{API}.replicas.initial: must be at least replicas.min 2 (got 1)"),
    ({f"{API}.replicas.initial": 101}, f"{API}.replicas.initial: must be at most replicas.max 100 (got 101)"),
    (
        {f"{API}.container.cpu_request_cores": 1.5},
        f"{API}.container.cpu_request_cores: must be at most container.cpu_limit_cores 1 (got 1.5)",
    ),
    (
        {f"{API}.lifecycle.startup_cpu_cores": 1.5},
        f"{API}.lifecycle.startup_cpu_cores: must be at most container.cpu_limit_cores 1 (got 1.5)",
    ),
    (
        {f"{API}.client.timeout_seconds": 0.3},
        f"{API}.client.timeout_seconds: must be greater than slo.latency_threshold_seconds 0.3 (got 0.3)",
    ),
    ({"cache": None}, f"{API}.queries.cacheable_share: must be 0 without a cache (got 0.9)"),
    ({"cache.capacity_keys": 1000001}, "cache.capacity_keys: must be at most cache.keys 1000000 (got 1000001)"),
    ({"cache.server_seconds": 0.001}, "cache.server_seconds: must be at most cache.lookup_seconds 0.0005 (got 0.001)"),
    (
        {f"{API}.client.timeout_seconds": 62.5},
        f"{API}.client.timeout_seconds: timeout and the last backoff, 1 s, must be at most 63 ticks = 63 s (got 62.5)",
    ),
    (
        {"slo.latency_threshold_seconds": 0.04},
        "slo.latency_threshold_seconds: must be greater than the latency of an idle system, 0.0445 s "
        "(mean times added up) (got 0.04)",
    ),
    (
        {"telemetry.scrape_interval_seconds": 15.5},
        "telemetry.scrape_interval_seconds: must be a multiple of tick_seconds 1 (got 15.5)",
    ),
    (
        {"telemetry.delay_seconds": 16},
        "telemetry.delay_seconds: must be at most scrape_interval_seconds 15 (got 16)",
    ),
    ({"telemetry.delay_seconds": 2.5}, "telemetry.delay_seconds: must be a multiple of tick_seconds 1 (got 2.5)"),
    (
        {"controller.sync_period_seconds": 15.1},
        "controller.sync_period_seconds: must be a multiple of tick_seconds 1 (got 15.1)",
    ),
    (
        {f"{DB}.max_connections": 10},
        f"{DB}.pool_size_per_pod: 2 pods (replicas.min) would open 8 connections, "
        "more than max_connections 10 - reserved_connections 3 (got 4)",
    ),
    (
        {f"{DB}.max_connections": 3},
        f"{DB}.reserved_connections: must be less than database.max_connections 3 (got 3)",
    ),
]


@pytest.mark.parametrize(("changes", "line"), FIELD_RULES + CROSS_RULES)
def test_a_broken_rule_is_named_with_path_and_value(changes, line):
    assert problems_of(changed(changes)) == [line]


def test_rules_hold_at_their_edges():
    """What lies exactly on a limit is right: the rules above refuse the next value, not this one."""
    Profile.from_dict(
        changed(
            {
                f"{API}.replicas.initial": 100,
                f"{API}.replicas.min": 100,
                f"{API}.container.cpu_request_cores": 1.0,
                f"{API}.lifecycle.startup_cpu_cores": 1.0,
                f"{API}.client.timeout_seconds": 5.3,
                f"{DB}.max_connections": 403,
                "cache.capacity_keys": 1000000,
                "tick_seconds": 0.1,
                "telemetry.delay_seconds": 0.3,
                "controller.sync_period_seconds": 2,
                f"{API}.autoscaler.behavior": {"scale_up": {"stabilization_window_seconds": 510}},
            }
        )
    )


def test_a_caller_that_never_retries_may_wait_long():
    Profile.from_dict(changed({f"{API}.client.timeout_seconds": 300, f"{API}.client.max_retries": 0}))
    Profile.from_dict(changed({f"{API}.client.timeout_seconds": 0.301}))


def test_what_a_profile_allows_fits_into_the_autoscaler():
    """Windows may hold as many syncs as they like: logs are as long as the profile needs them."""
    assert MAX_POLICIES <= hpa_records.MAX_POLICIES
    hasty = load_profile("production").with_overrides(
        {
            "controller.sync_period_seconds": 1,
            "controller.downscale_stabilization_window_seconds": 3600,
            f"{API}.autoscaler.behavior": {"scale_up": {"policies": [POLICY | {"period_seconds": 1800}]}},
        }
    )
    tables, _ = build_tables([Lane(hasty, Trace("one", 1.0, np.ones(2)), seed=0)])
    assert len(tables["recommendations"]) == 3600 + 2
    assert len(tables["up_events"]) == 1800 + 1


def test_queries_need_a_database():
    assert problems_of(changed({"database": None})) == [
        "services.0.queries.reads_per_call: must be 0 without a database (got 3.0)",
        "services.0.queries.writes_per_call: must be 0 without a database (got 0.2)",
    ]


def test_names_of_services_are_unique():
    document = changed({"services.1.name": "web"}, TWO_SERVICES)
    assert problems_of(document) == ["services.1.name: must be unique; services.0 has it too (got 'web')"]


def test_at_most_two_hundred_services():
    document = changed(
        {"services": [TWO_SERVICES["services"][0] | {"name": f"s{i}"} for i in range(201)]}, TWO_SERVICES
    )
    document["slo"]["latency_threshold_seconds"], document["services"] = (
        5,
        [service | {"client": service["client"] | {"timeout_seconds": 6}} for service in document["services"]],
    )
    assert problems_of(document) == ["services: must have at most 200 items (got a list of 201)"]
    document["services"].pop()
    assert len(Profile.from_dict(document).services) == 200


def test_only_pods_that_query_need_connections():
    """In the experimental profile `web` asks nothing of the database: 2 pods of `api` open 10 connections."""
    Profile.from_dict(changed({"database.max_connections": 13}, TWO_SERVICES))
    assert problems_of(changed({"database.max_connections": 12}, TWO_SERVICES)) == [
        "database.pool_size_per_pod: 2 pods (replicas.min) would open 10 connections, "
        "more than max_connections 12 - reserved_connections 3 (got 5)"
    ]


def test_ideal_latency_adds_up_the_mean_times():
    """2 ms proxy + 25 ms CPU + 15 ms I/O + 2.7 lookups of 0.5 ms + 0.3 reads of 2 ms + 0.2 writes of 3 ms."""
    ideal_s = 0.002 + 0.025 + 0.015 + 2.7 * 0.0005 + 0.3 * 0.002 + 0.2 * 0.003
    assert ideal_latency_seconds(load_profile("production")) == pytest.approx(ideal_s, rel=1e-12)


def test_all_problems_are_reported_at_once():
    """Problems of fields do not hide those between fields; a rule whose own numbers are wrong stays silent."""
    document = changed(
        {
            "description": 7,
            "slo.latency_threshold_seconds": "fast",
            f"{API}.replicas.min": 120,
            f"{API}.container.cpu_request_cores": -1,
            f"{API}.client.retries": 2,
            "database.max_connections": None,
            "cache.capacity_keys": 2000000,
            "prices": GONE,
        }
    )
    with pytest.raises(ProfileError) as refused:
        Profile.from_dict(document, "profiles/checkout.yaml")
    assert str(refused.value) == (
        "ProfileError: profiles/checkout.yaml: 8 problems\n"
        "  description: must be text (got 7)\n"
        "  slo.latency_threshold_seconds: must be a number (got 'fast')\n"
        "  services.0.container.cpu_request_cores: must be at least 0.001 (got -1)\n"
        "  services.0.client.retries: unknown key; did you mean 'max_retries'?\n"
        "  prices: required key is missing\n"
        "  database.max_connections: must be a whole number (got null)\n"
        "  services.0.replicas.min: must be at most replicas.max 100 (got 120)\n"
        "  cache.capacity_keys: must be at most cache.keys 1000000 (got 2000000)"
    )


@pytest.mark.parametrize("data", [None, 5, "production", ["production"]])
def test_a_profile_is_a_mapping(data):
    shown = {None: "null", 5: "5", "production": "'production'"}.get(
        data if not isinstance(data, list) else "", "a list of 1"
    )
    assert problems_of(data) == [f"must be a mapping of keys (got {shown})"]


def test_an_instance_cannot_break_the_rules_either():
    """`model_validate` is what other libraries call; the rules between fields hold there too."""
    with pytest.raises(ValueError, match=r"replicas\.min: must be at most replicas\.max 100 \(got 101\)"):
        Profile.model_validate(changed({f"{API}.replicas.min": 101}))
    with pytest.raises(ValueError, match="frozen"):
        load_profile("production").name = "other"


# --- files


@pytest.fixture
def written(tmp_path):
    def write(content, name="checkout.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def file_problem(path):
    with pytest.raises(ProfileError) as refused:
        load_profile(path)
    assert refused.value.where == str(path)
    return refused.value.problems


def test_a_profile_loads_from_a_path(written):
    path = written(yaml.safe_dump(PRODUCTION))
    assert load_profile(path) == load_profile(str(path)) == load_profile("production")


def test_problems_of_a_file_name_the_file(written):
    path = written(yaml.safe_dump(changed({"slo.objective": 2})))
    with pytest.raises(ProfileError) as refused:
        load_profile(path)
    assert str(refused.value) == f"ProfileError: {path}: slo.objective: must be less than 1 (got 2)"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ProfileError) as refused:
        load_profile("prodution")
    assert str(refused.value) == (
        "ProfileError: 'prodution': unknown profile (known: development, experimental, "
        "production, boutique, diamond, front; or name a file); "
        "did you mean 'production'?"
    )


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "staging"])
def test_odd_names_are_unknown_profiles(name):
    with pytest.raises(ProfileError, match="unknown profile"):
        load_profile(name)


def test_a_profile_file_needs_no_suffix(written, monkeypatch):
    monkeypatch.chdir(written(yaml.safe_dump(PRODUCTION), "staging").parent)
    assert load_profile("staging") == load_profile("production")


FILE_PROBLEMS = [
    ("", "the file is empty"),
    ("# only a comment\n", "the file is empty"),
    ("null\n", "must be a mapping of keys (got null)"),
    (
        "name: a\nslo: [1\n",
        "not valid YAML: line 3, column 1: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
    ),
    (
        "name: a\n\tslo: 1\n",
        "not valid YAML: line 2, column 1: while scanning for the next token, "
        "found character '\\t' that cannot start any token",
    ),
    ("name: a: b\n", "not valid YAML: line 1, column 8: mapping values are not allowed here"),
    (
        "a: 1\n---\nb: 1\n",
        "not valid YAML: line 2, column 1: expected a single document in the stream, but found another document",
    ),
    (
        "name: !!python/object/apply:os.getcwd []\n",
        "not valid YAML: line 1, column 7: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    ),
    ("name: *base\n", "not valid YAML: line 1, column 7: found undefined alias 'base'"),
    ("? [a]\n: 1\n", "not valid YAML: line 1, column 3: while constructing a mapping, found unhashable key"),
    ("x: !!float abc\n", "not valid YAML: a value does not fit its tag: could not convert string to float: 'abc'"),
    ("x: !!bool maybe\n", "not valid YAML: a value does not fit its tag: 'maybe'"),
    ("name: a\nb: \x07\n", "not valid YAML: line 2 holds the control character 0x7"),
    ("x: " + "[" * 5000, "is nested too deeply"),
    (b"name: \xff\n", "is not UTF-8 text (byte 6)"),
    (b"#" * (1 << 20) + b"#", "is larger than 1048576 bytes"),
]


@pytest.mark.parametrize(("content", "problem"), FILE_PROBLEMS)
def test_a_file_that_is_no_document_says_where(written, content, problem):
    assert file_problem(written(content)) == [problem]


def test_a_key_that_stands_twice_is_refused_with_its_lines(written):
    path = written("name: a\nslo:\n  objective: 0.9\n  objective: 0.99\nservices:\n  - name: x\n    name: y\nname: b\n")
    assert file_problem(path) == [
        "slo.objective: key stands twice, on lines 3 and 4",
        "services.0.name: key stands twice, on lines 6 and 7",
        "name: key stands twice, on lines 1 and 8",
    ]


def test_files_that_cannot_be_read(tmp_path, written):
    assert file_problem(tmp_path) == ["is a directory; name a YAML file in it"]
    written("", "checkout.yaml")
    assert file_problem(tmp_path / "chekout.yaml") == ["no such file; did you mean 'checkout.yaml'?"]
    assert file_problem(tmp_path / "none" / "x.yaml") == ["no such file"]
    assert file_problem(tmp_path / "checkout.yaml" / "x.yaml") == [f"cannot be read: {os.strerror(20)}"]
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    assert file_problem(loop) == [f"cannot be read: {os.strerror(40)}"]


def test_yaml_is_read_as_people_mean_it(written):
    """YAML 1.1 reads 1:30 as 90, no as false, 5e-4 as text and 010 as 8; the core schema of YAML 1.2 does not."""
    text = yaml.safe_dump(PRODUCTION)
    text = text.replace("lookup_seconds: 0.0005", "lookup_seconds: 5e-4").replace("workers: 16", "workers: 016")
    assert load_profile(written(text)) == load_profile("production")
    for wrong, line in (
        ("name: no", "name: must"),
        ("name: 1:30", "name: must match"),
        ("name: 2026-01-01", "name: must match"),
        ("name: .nan", "name: must be text (got nan)"),
        ("name: -.INF", "name: must be text (got -inf)"),
        ("name: ~", "name: must be text (got null)"),
        ("name: " + "9" * 5000, "name: must be text (got inf)"),
        ("name: 0x10", "name: must match"),
    ):
        path = written(text.replace("name: production", wrong))
        if wrong == "name: no":
            assert load_profile(path).name == "no"
        else:
            assert file_problem(path)[0].startswith(line)


def test_anchors_share_a_section_and_do_not_count_as_twice(written):
    text = yaml.dump(TWO_SERVICES | {"services": [TWO_SERVICES["services"][1] | {"name": n} for n in ("a", "b")]})
    assert "&id" in text
    assert [service.name for service in load_profile(written(text)).services] == ["a", "b"]


def test_aliases_of_aliases_cost_nothing(written):
    """Nine lists of nine aliases each: a billion items for who follows them all."""
    lists = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 10))
    problems = file_problem(written(f"l0: &l0 [1]\n{lists}name: laughs\n"))
    assert "l9: unknown key" in problems and len(problems) < 30


# --- overrides


def test_overrides_reach_every_depth():
    profile = load_profile("production").with_overrides(
        {
            "services.api.replicas.max": 20,
            "services.0.container.workers": 8,
            "database.max_connections": 200,
            "services.api.autoscaler.behavior.scale_down.stabilization_window_seconds": 60,
            "slo": {"objective": 0.95, "latency_threshold_seconds": 1},
        }
    )
    api = profile.services[0]
    assert (api.replicas.max, api.container.workers, profile.database.max_connections) == (20, 8, 200)
    assert api.autoscaler.behavior.scale_down.stabilization_window_seconds == 60
    assert api.autoscaler.behavior.scale_up is None
    assert (profile.slo.objective, profile.slo.window_days) == (0.95, 30)
    assert load_profile("production").to_dict() == PRODUCTION


def test_overrides_report_unknown_paths_and_broken_rules_at_once():
    with pytest.raises(ProfileError) as refused:
        load_profile("experimental").with_overrides(
            {
                "services.ap.replicas.max": 20,
                "services.2.replicas.max": 20,
                "services.web.replicas.maxx": 20,
                "databse.cores": 2,
                "tick_seconds.value": 1,
                "services.web.replicas.min": 50,
                "services.0.replicas.min": 50,
                "services.web.autoscaler.behavior.scale_up.policies.2.value": 1,
                "cache": None,
            }
        )
    assert str(refused.value) == (
        "ProfileError: experimental with overrides: 9 problems\n"
        "  services.ap: no such item (there are: web, api); did you mean 'api'?\n"
        "  services.2: no such item (there are: web, api)\n"
        "  services.0.replicas.maxx: unknown key; did you mean 'max'?\n"
        "  databse: unknown key; did you mean 'database'?\n"
        "  tick_seconds.value: unknown key; tick_seconds holds a value, not keys\n"
        "  services.0.replicas.min: overlaps with the override services.web.replicas.min\n"
        "  services.0.autoscaler.behavior.scale_up.policies.2: no such item (there are: 0 to 1)\n"
        "  services.0.replicas.min: must be at most replicas.max 40 (got 50)\n"
        "  services.1.queries.cacheable_share: must be 0 without a cache (got 0.9)"
    )


def test_an_override_inside_another_is_ambiguous():
    with pytest.raises(ProfileError, match=r"slo\.objective: overlaps with the override slo$"):
        load_profile("production").with_overrides({"slo": PRODUCTION["slo"], "slo.objective": 0.9})


# --- components


WITH_BROKER = profile_model((*COMPONENTS, "tests.made_up"))
BROKER = {"partitions": 4, "publish_seconds": 0.001}


def test_a_component_adds_a_section_by_its_package_alone():
    """A folder and its name in the list: documents, plain data, digests and overrides know the section."""
    profile = WITH_BROKER.from_dict(changed({}) | {"broker": BROKER})
    assert profile.broker.consumers == 1
    assert WITH_BROKER.from_dict(profile.to_dict()) == profile
    more = profile.with_overrides({"broker.consumers": 3, "services.api.replicas.max": 20})
    assert (type(more), more.broker.consumers, more.services[0].replicas.max) == (WITH_BROKER, 3, 20)
    assert more.digest != profile.digest != Profile.from_dict(PRODUCTION).digest
    without = WITH_BROKER.from_dict(PRODUCTION)
    assert without.broker is None
    assert without.with_overrides({"broker": BROKER}) == profile


def test_problems_of_a_component_stand_beside_all_others():
    with pytest.raises(ProfileError) as refused:
        WITH_BROKER.from_dict(changed({"slo.objective": 2}) | {"broker": BROKER | {"consumers": 5, "partition": 3}})
    assert refused.value.problems == [
        "slo.objective: must be less than 1 (got 2)",
        "broker.partition: unknown key; did you mean 'partitions'?",
        "broker.consumers: must be at most broker.partitions 4 (got 5)",
    ]
    with pytest.raises(ProfileError, match=r"brokr: unknown key; did you mean 'broker'\?$"):
        WITH_BROKER.from_dict(PRODUCTION).with_overrides({"brokr": None})
    (unknown,) = problems_of(changed({}) | {"broker": BROKER})
    assert unknown.startswith("broker: unknown key")


def test_a_profile_travels_to_other_processes():
    profile = load_profile("production")
    assert pickle.loads(pickle.dumps(profile)) == profile


def test_listed_components_are_sections_of_a_profile():
    keys = [component.key for component in Profile.components]
    assert keys == [package.rpartition(".")[2] for package in COMPONENTS] == ["cache", "database"]
    assert all(
        Profile.model_fields[key].annotation == component.section | None
        for key, component in zip(keys, Profile.components, strict=True)
    )


# --- plain data


def test_the_digest_depends_on_values_alone(written):
    profile = load_profile("production")
    backwards = {key: PRODUCTION[key] for key in reversed(PRODUCTION)}
    assert Profile.from_dict(backwards).digest == profile.digest
    assert profile.with_overrides({"tick_seconds": 1}).digest == profile.digest  # 1 is 1.0
    zero = profile.with_overrides({"ingress.scv": 0})
    assert profile.with_overrides({"ingress.scv": -0.0}).digest == zero.digest != profile.digest


FREE_NUMBERS = {  # whatever their value within these bounds, no rule between fields breaks
    "slo.objective": st.floats(0.5, 0.9999),
    "slo.latency_threshold_seconds": st.floats(0.1, 1.0),
    "ingress.scv": st.floats(0, 100),
    f"{API}.calls_per_request": st.floats(0.01, 1.0),
    f"{API}.replicas.max": st.integers(2, 5000),
    f"{API}.container.workers": st.integers(1, 10_000),
    f"{API}.container.cpu_request_cores": st.floats(1e-3, 1.0),
    f"{API}.lifecycle.startup_seconds": st.floats(0, 3600),
    f"{API}.queries.cacheable_share": st.just(0.0) | st.floats(1e-6, 1),
    f"{API}.autoscaler.target_cpu_utilization_pct": st.integers(1, 1000),
    f"{API}.autoscaler.behavior": st.sampled_from([None, {"scale_down": {"stabilization_window_seconds": 60}}]),
    "database.cores": st.floats(0.1, 1024),
    "cache.zipf_exponent": st.floats(0, 5),
    "controller.tolerance": st.floats(0, 0.99),
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=FREE_NUMBERS))
def test_a_profile_survives_plain_data_json_and_yaml(overrides):
    profile = Profile.from_dict(PRODUCTION).with_overrides(overrides)
    for data in (
        profile.to_dict(),
        json.loads(json.dumps(profile.to_dict())),
        yaml.safe_load(yaml.safe_dump(profile.to_dict())),
    ):
        again = Profile.from_dict(data)
        assert again == profile
        assert hash(again) == hash(profile)
        assert again.digest == profile.digest


def places(document, at=()):
    """Every place of a document, as its path."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=10),
    st.lists(st.integers(), max_size=6),
    st.dictionaries(st.one_of(st.text(max_size=5), st.integers(), st.none(), st.booleans()), st.integers(), max_size=3),
)


GRAPH = load_profile(Path(__file__).parents[1] / "experiments" / "profiles" / "front.yaml").to_dict()
OF_GRAPH = {  # more places for damage than all the rest have: few documents would hit them
    str(place): place
    for place in places(GRAPH)
    if {"requests", "endpoints", "calls", "ingress"} & {step for step in place if isinstance(step, str)}
}


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([TWO_SERVICES, GRAPH]).flatmap(
        lambda base: st.tuples(
            st.just(base),
            st.lists(
                st.tuples(
                    st.sampled_from(sorted(OF_GRAPH) if base is GRAPH else sorted(map(str, places(base)))),
                    st.one_of(JUNK, st.just(GONE)),
                ),
                max_size=4,
            ),
        )
    )
)
def test_no_document_breaks_the_checker(damaged):
    """Whatever stands in a profile, the answer is a profile or a ProfileError with one line a problem."""
    base, changes = damaged
    document, known = copy.deepcopy(base), {str(place): place for place in places(base)}
    for name, junk in changes:
        node = document
        *parents, last = known[name]
        try:
            for step in parents:
                node = node[step]
            if junk is GONE:
                del node[last]
            else:
                node[last] = junk
        except (LookupError, TypeError):
            continue  # an earlier change took this place away
    try:
        profile = Profile.from_dict(document)
    except InputError as refused:
        assert type(refused) is ProfileError
        assert len(set(refused.problems)) == len(refused.problems) > 0
        assert all("\n" not in line and ("(got " in line or "key" in line) for line in refused.problems)
    else:
        assert Profile.from_dict(profile.to_dict()) == profile


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("startup", "services.api.lifecycle.startup_seconds"),  # not startup_scv: only the unit is missing
        ("services.api.startup", "services.api.lifecycle.startup_seconds"),
        ("replicas.max", "services.api.replicas.max"),
        ("max_conections", "database.max_connections"),
        ("target_cpu", "services.api.autoscaler.target_cpu_utilization_pct"),
        ("database.max_conections", "max_connections"),  # beside it: the key is enough
    ],
)
def test_an_unknown_override_names_the_nearest_path(production, path, nearest):
    """Not a key somewhere: what is named can be copied, and is then taken."""
    with pytest.raises(ProfileError) as refused:
        production.with_overrides({path: 60})
    assert str(refused.value).endswith(f"unknown key; did you mean '{nearest}'?")
    if "." in nearest:
        production.with_overrides({nearest: 60})


def test_an_override_that_is_like_nothing_gets_no_suggestion(production):
    with pytest.raises(ProfileError, match=r"zzzz: unknown key$"):
        production.with_overrides({"zzzz": 1})
