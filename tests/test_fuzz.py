"""Damaged documents and traces: whatever a user writes, the answer is a result or an InputError of less than 4 kB."""

from __future__ import annotations

import copy
import gzip
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

import experiments
import sim_core.profile
from experiments.planning.plan import make_plan
from experiments.planning.spec import bundled_specs, load_spec, shrink_windows, spec_from_dict
from sim_core.errors import InputError
from sim_core.profile import Profile, bundled_profiles, load_profile
from sim_core.workload import read_trace

MAX_BYTES = 4096  # of a message
FOLDERS = (
    Path(sim_core.profile.__file__).parent / "profiles",
    Path(experiments.__file__).parent / "specs",
)
GRAPHS = sorted((Path(experiments.__file__).parent / "profiles").glob("*.yaml"))  # services with endpoints
PROFILE_TEXTS = [(FOLDERS[0] / f"{name}.yaml").read_text() for name in bundled_profiles()]
PROFILE_TEXTS += [path.read_text() for path in GRAPHS]
SPEC_TEXTS = [(FOLDERS[1] / f"{name}.yaml").read_text() for name in bundled_specs()]
SMALL_SPEC = """\
name: small
profile: development
traffic: {generator: diurnal, scale_peak_to_replicas: 2, train: {start: 0, duration: 1h}, evaluate: {start: 1h, duration: 1h}}
duration: 10m
policies:
  - {policy: static, replicas: [1, 2]}
  - {policy: hpa, target_cpu_utilization_pct: {from: 50, to: 60, step: 10}, tolerance: 0.2}
parameters: {database.cores: [1, 2], services.api.container.workers: {from: 1, to: 3, step: 2}}
objective: {minimize: latency_p95_s, subject_to: {slo_attainment: slo, cost_usd: 9}}
evaluation: {policies: [hpa], seeds: 3}
"""
KEYS = [
    None,
    1,
    -1,
    0.5,
    True,
    math.nan,
    math.inf,
    "",
    "x" * 5000,
    "a.b",
    "\x85",
    "é",
    10**50,
    (1, 2),
    "replicas",
    "policy",
]

YAML_WORDS = [b"&a ", b"*a", b"!!python/object:os.system ", b"? ", b"- ", b"<<: *a\n", b"%YAML 9\n", b"\0", b"---\n"]


def refusal(call: Callable[[], object]) -> str:
    """The message of the InputError that a call ends with; empty if it ends well. Anything else is a defect."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            call()
        except InputError as refused:
            assert 0 < len(str(refused).encode("utf-8", "surrogatepass")) < MAX_BYTES
            return str(refused)
    return ""


def any_value(random: Random, depth: int = 0) -> Any:
    """A value of any YAML type, small, huge, odd or nested."""
    kind = random.randrange(14 if depth < 3 else 10)
    if kind == 10:
        return [any_value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 11:
        return {random.choice(KEYS): any_value(random, depth + 1) for _ in range(random.randrange(4))}
    if kind == 12:
        return {"from": any_value(random, 3), "to": any_value(random, 3), "step": any_value(random, 3)}
    if kind == 13:
        deep: Any = 1
        for _ in range(random.choice([5, 50, 120])):
            deep = [deep] if random.random() < 0.5 else {"a": deep}
        return deep
    plain: list[Any] = [
        None,
        random.random() < 0.5,
        random.randrange(-3, 300),
        random.choice([10**20, -(10**20), 10**400, 2**63, 2**31]),
        random.choice([0.0, -0.0, 1e-300, 5e-324, 1e308, -1e308, math.inf, -math.inf, math.nan]),
        random.uniform(-2, 2) * 10.0 ** random.randrange(-9, 9),
        random.choice(["", " ", "no", "1e5", "slo", "production", "static", "hpa", "1h", "-1d", "nan", "\ud800"[:0]]),
        "".join(random.choice("abc.:é\n{}[]'\"") for _ in range(random.randrange(20))),
        "x" * random.choice([100, 10_000]),
        random.choice(["/", ".", "..", "models:/", "models:/x@y", "~", "\u2028", "\U0001f600" * 40]),
    ]
    return plain[kind]


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a document stands."""
    items: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in items for place in [(*at, key), *places(value, (*at, key))]]


def changed(document: Any, random: Random) -> Any:
    """A document with one to three values or keys replaced, removed, added, moved or shared."""
    document = copy.deepcopy(document)
    for _ in range(random.choice([1, 1, 2, 3])):
        found = places(document)
        if not found:
            return document
        *above, last = random.choice(found)
        parent = document
        for step in above:
            parent = parent[step]
        change = random.randrange(6)
        old = parent[last]
        if isinstance(old, int | float) and change <= 1:
            parent[last] = type(old)(min(abs(old * random.choice([0.5, 0.9, 1.1, 2, 10, 1e3])), 1e9))
        elif change <= 2:
            parent[last] = any_value(random)
        elif change == 3:
            del parent[last]
        elif change == 4 and isinstance(parent, dict):
            parent[random.choice(KEYS)] = parent.pop(last) if random.random() < 0.5 else any_value(random)
        elif change == 5:
            other = document
            for step in random.choice(found)[: random.randrange(1, 3)]:
                if (isinstance(other, dict) and step in other) or (
                    isinstance(other, list) and step in range(len(other))
                ):
                    other = other[step]
            parent[last] = copy.deepcopy(other)
    return document


def damaged(content: bytes, random: Random) -> bytes:
    """Bytes flipped, cut, doubled, put in or written in another encoding."""
    change = random.randrange(9)
    at = random.randrange(max(1, len(content)))
    if change == 0:
        return content[:at]
    if change == 1:
        return content[:at] + bytes([random.randrange(256)]) * random.choice([1, 3, 2000]) + content[at:]
    if change == 2:
        return bytes(b ^ (1 << random.randrange(8)) if random.random() < 0.002 else b for b in content)
    if change == 3:
        lines = content.split(b"\n")
        line = random.randrange(len(lines))
        return b"\n".join([*lines[:line], *lines[line:][: random.randrange(9)], *lines[line:]])
    if change == 4:
        lines = content.split(b"\n")
        random.shuffle(lines)
        return b"\n".join(lines)
    if change == 5:
        return content.decode("utf-8", "replace").encode(
            random.choice(["utf-16", "utf-32", "utf-8-sig", "cp037"]), "replace"
        )
    if change == 6:
        return content[:at] + random.choice(YAML_WORDS) + content[at:]
    if change == 7:
        end = min(len(content), at + random.randrange(40))
        return content[:at] + content[end:]
    return (
        b"[" * random.choice([10, 3000]) + content if random.random() < 0.5 else content.replace(b":", b"", 1 + at % 3)
    )


def written(text: str, random: Random) -> bytes:
    """A damaged form of a YAML text: of its values, of its bytes, or of both."""
    if random.random() < 0.6:
        document = changed(yaml.safe_load(text), random)
        text = yaml.dump(document, allow_unicode=random.random() < 0.5, sort_keys=False)
        if random.random() < 0.8:
            return text.encode("utf-8", "surrogatepass")
    return damaged(text.encode(), random)


def trace_bytes(random: Random) -> bytes:
    """A damaged trace: of its numbers, its lines, its bytes, its compression."""
    odd = ["", " ", "nan", "inf", "-1", "1e400", "1e300", "1e-300", "1_0", "x" * 3000, "0x1f", "1,2", '"3"', "٣", "\0"]
    step = random.choice([1, 60, 1e-9, 1e-300, 1e300, 0.1])
    n_rows = random.choice([0, 1, 2, 50, 3000])
    rows = [[repr(k * step), repr(random.random() * 10 ** random.randrange(-5, 9))] for k in range(n_rows)]
    for _ in range(random.randrange(4)):
        if rows:
            rows[random.randrange(len(rows))][random.randrange(2)] = random.choice(odd)
    header = random.choice(
        ["t_seconds,requests_per_second"] * 9 + ["requests_per_second,t_seconds", "a,b", "x" * 9000, ""]
    )
    content = "\n".join([header, *(",".join(row) for row in rows)]).encode()
    if random.random() < 0.4:
        content = damaged(content, random)
    if random.random() < 0.4:
        content = gzip.compress(content)
        content = damaged(content, random) if random.random() < 0.7 else content
    return content


def read_spec(path: Path) -> None:
    """Reads a specification back from its own plain data, and plans it where it is small."""
    spec = load_spec(path)
    assert spec_from_dict(spec.to_dict()) == spec
    windows = [spec.traffic.train, spec.traffic.evaluate]
    longest_s = max([spec.duration or 0.0, *(window.start + window.duration for window in windows if window)])
    if longest_s <= 86_400.0 and spec.seeds.count <= 100:
        make_plan(spec)
    shrink_windows(spec.to_dict(), 600.0)


def fuzz_profiles(folder: Path, seed: int) -> str:
    random, path = Random(seed), folder / "fuzzed.yaml"
    path.write_bytes(written(random.choice(PROFILE_TEXTS), random))
    return refusal(lambda: Profile.from_dict(load_profile(path).to_dict()))


def fuzz_specs(folder: Path, seed: int) -> str:
    random, path = Random(seed), folder / "fuzzed.yaml"
    path.write_bytes(written(random.choice([SMALL_SPEC, SMALL_SPEC, *SPEC_TEXTS]), random))
    return refusal(lambda: read_spec(path))


def fuzz_plain_specs(folder: Path, seed: int) -> str:
    """Plain data that no YAML file can hold reaches the same checks, as from the Python API."""
    random = Random(seed)
    return refusal(lambda: spec_from_dict(changed(yaml.safe_load(SMALL_SPEC), random)))


def fuzz_overrides(folder: Path, seed: int) -> str:
    random = Random(seed)
    profile = load_profile(random.choice([*bundled_profiles(), *GRAPHS]))
    known = [".".join(map(str, place)) for place in places(profile.to_dict())]
    odd = [
        "",
        ".",
        "services",
        "services.",
        "services.-1",
        "services.9",
        "services.api.x",
        "services.²",
        "x" * 5000,
        "a.\0",
    ]
    overrides: dict[Any, Any] = {}
    for _ in range(random.randrange(1, 4)):
        path = random.choice(known) if random.random() < 0.8 else random.choice(odd + KEYS)
        overrides[path] = random.choice([any_value(random), random.randrange(1, 9), random.random()])
    return refusal(lambda: profile.with_overrides(overrides))


def fuzz_traces(folder: Path, seed: int) -> str:
    random = Random(seed)
    path = folder / random.choice(["fuzzed.csv", "fuzzed.csv.gz"])
    path.write_bytes(trace_bytes(random))

    def read() -> None:
        trace = read_trace(path)
        assert trace.duration_s > 0.0 and math.isfinite(trace.duration_s) and math.isfinite(trace.mean_per_s)

    return refusal(read)


FUZZERS = [fuzz_profiles, fuzz_specs, fuzz_plain_specs, fuzz_overrides, fuzz_traces]


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_damaged_input_is_refused_in_a_few_words_or_read(fuzzer: Callable[[Path, int], str], tmp_path: Path):
    refused = [bool(fuzzer(tmp_path, seed)) for seed in range(80)]
    assert any(refused)
    assert not all(refused)  # else the damage hides what lies behind the first check


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_thousands_of_damaged_inputs_are_refused_or_read(fuzzer: Callable[[Path, int], str], tmp_path: Path):
    for seed in range(1000, 4000):
        try:
            fuzzer(tmp_path, seed)
        except Exception as defect:
            raise AssertionError(f"{fuzzer.__name__} with seed {seed}") from defect


def test_a_specification_with_a_key_that_is_no_text_is_refused(tmp_path: Path):
    for key in ("null", "1", "true", "[a, b]", "{a: b}"):
        path = tmp_path / "keys.yaml"
        path.write_text(SMALL_SPEC.replace("parameters: {", f"parameters: {{{key}: [1], "))
        assert refusal(lambda path=path: load_spec(path)), key


def test_a_name_that_is_too_long_for_a_file_is_one_of_no_file(tmp_path: Path):
    """The file system refuses it with an error of its own, not by saying that there is no such file."""
    word, path = "x" * 5000, tmp_path / "long.yaml"
    for there, instead in (("profile: development", f"profile: {word}"), ("generator: diurnal", f"trace: {word}")):
        path.write_text(SMALL_SPEC.replace(there, instead))
        assert refusal(lambda: load_spec(path))
    assert refusal(lambda: load_spec(word))
    assert refusal(lambda: read_trace(word))
    assert refusal(lambda: load_profile(word))


@pytest.mark.parametrize("lines", [1, 20, 21, 20_000])
def test_a_message_says_the_first_problems_and_how_many_more_there_are(tmp_path: Path, lines: int):
    path = tmp_path / "junk.yaml"
    path.write_text(PROFILE_TEXTS[0] + "".join(f"junk-{k}: {'x' * 12}\n" for k in range(lines)))
    message = refusal(lambda: load_profile(path))
    assert message.count("\n") == (0 if lines == 1 else min(lines, 20) + (lines > 20))
    assert "junk-0: unknown key" in message
    assert message.endswith(f"and {lines - 20} more") == (lines > 20)


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
def test_long_names_values_and_places_are_cut(letter: str):
    """In bytes, whatever their letters; and with the class, the place and the number of problems still to be read."""
    word = letter * 100_000
    problem = InputError(word, [f"{word}: must be {word}"] * 500)
    assert len(str(problem).encode()) < MAX_BYTES
    assert str(problem).startswith(f"InputError: {letter * 10}")
    assert ": 500 problems\n" in str(problem)
    assert len(str(InputError(word, word)).encode()) < MAX_BYTES
    assert refusal(lambda: Profile.from_dict({word: 1, "services": [{"name": word}]}))


def test_an_override_beside_a_broken_one_is_read_on_its_own():
    """Each path is looked up in the profile as it is, not in what another override has made of it."""
    message = refusal(lambda: load_profile("production").with_overrides({"services": True, "services.api.name": "x"}))
    assert "services.api.name: overlaps with the override services" in message
