"""The general autoscaler: one rule and one residual for traffic that nobody has trained on, made from many kinds of it.

`python -m agents.learning.general TRACE... -o FILE.onnx` makes the file that this package ships. Traffic (traces scaled to
several peaks, and the bundled generators), start-up times and objectives are varied, so that none of them is learned by
heart; the last day of each traffic decides how much of the residual is kept, and its price of the error budget is the
mean of those that keep the SLO on each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.env import EnvSpec
from agents.learning.export import export_onnx, with_metadata
from agents.learning.families import RULE
from agents.learning.search import DAY_S, Found, Part, search
from agents.learning.train import CALIBRATION_DAYS, KEPT, LEAST_GAIN, TrainRequest, calibrate, learn, pods_of_shares
from agents.policies.learned import GENERAL, LearnedPolicy
from sim_core.errors import InputError
from sim_core.profile import in_long_ticks, load_profile
from sim_core.workload import Trace, bundled_traffic, read_trace
from sim_core.workload.counting_noise import rate_estimate
from sim_core.world import scale_to_replicas

GENERATED = ("diurnal", "spiky", "flash-crowd")
GENERATED_DAYS = 6
MOST_DAYS = 8  # of a trace
STARTUPS_S = (10.0, 20.0, 45.0, 110.0)
OBJECTIVES = (0.99, 0.99, 0.995)
PEAKS = (12, 20, 40)  # replicas at 70 %
LANES = 64
SEED = 20_261_128


def traffic_of(paths: Sequence[Path]) -> list[Trace]:
    """The traces of some files, and the bundled generators' traffic after them."""
    generated = [bundled_traffic(name).generate(GENERATED_DAYS * DAY_S, seed=k) for k, name in enumerate(GENERATED)]
    return [*(rate_estimate(read_trace(path)) for path in paths), *generated]


def parts_of(traces: Sequence[Trace], seed: int = SEED) -> list[Part]:
    """The traffics with the profile `production` in many variants, one for each; their last MOST_DAYS.

    Args:
        traces: as they were recorded.
        seed: of the variants.

    Raises:
        InputError: a trace is shorter than two days.
    """
    short = [trace.name for trace in traces if trace.duration_s < 2.0 * DAY_S]
    if short:
        raise InputError("traces", f"must last two days or more (shorter: {', '.join(short)})")
    generator = np.random.default_rng(seed)
    made = []
    for number, trace in enumerate(traces):
        profile = load_profile("production").with_overrides(
            {
                "services.api.lifecycle.startup_seconds": STARTUPS_S[number % len(STARTUPS_S)],
                "slo.objective": OBJECTIVES[int(generator.integers(len(OBJECTIVES)))],
            }
        )
        scaled = scale_to_replicas(trace, profile, PEAKS[int(generator.integers(len(PEAKS)))])
        end_s = np.floor(scaled.duration_s / DAY_S) * DAY_S
        made.append(Part(profile, scaled, max(0.0, end_s - MOST_DAYS * DAY_S), end_s, most_days=2))
    return made


def make(
    traces: Sequence[Trace], search_days: float, steps: int, learners: int = 1, seed: int = SEED
) -> tuple[bytes, dict[str, Any]]:
    """The general model, and how it came about.

    Args:
        traces: two days or more each.
        search_days: simulated days for the rule.
        steps: env steps of each learner of the residual.
        learners: with seeds of their own; what they would do is averaged.
    """
    whole = parts_of(traces, seed)
    learned = [replace(part, end_s=part.end_s - DAY_S) for part in whole]
    held_back = [replace(part, start_s=part.end_s - DAY_S) for part in whole]
    found = search(RULE, learned, search_days, seed)
    specs = [
        EnvSpec(in_long_ticks(part.profile), part.trace, part.start_s, part.end_s, rule=found.settings)
        for part in learned
    ]
    first = learned[0]
    request = TrainRequest(first.profile, first.trace, first.start_s, first.end_s, steps, n_envs=LANES)
    lanes = [specs[lane % len(specs)] for lane in range(LANES)]
    learned_by = [learn(replace(request, seed=seed % 1000 + k), lanes) for k in range(learners)]
    network = export_onnx([learner.policy for learner, _ in learned_by], found.settings, 1.0)
    kept, gains = choose(network, found, held_back)
    about = {
        "kind": "general",
        "traffic": [trace.name for trace in traces],
        "search_days": round(found.simulated_days, 1),
        "steps": sum(made for _, made in learned_by),
        "gain_over_rule": gains,
    }
    return priced(with_metadata(network, {"kept": kept, "about": about}), whole)


def priced(model: bytes, parts: Sequence[Part]) -> tuple[bytes, dict[str, Any]]:
    """A model with the geometric mean of the prices that keep the SLO on some traffics; and what it tells of itself.

    The highest of them would be safe everywhere, and dear nearly everywhere: the account of the budget raises the price where
    it has to be higher.
    """
    policy = LearnedPolicy(model)
    prices = [calibrate(policy, replace(part, most_days=CALIBRATION_DAYS))[0] for part in parts]
    rule = {**policy.rule, "price": float(np.exp(np.log(prices).mean()))}
    facts = {"rule": rule, "kept": policy.kept, **policy.about, "prices": prices}
    return with_metadata(model, {"rule": rule}), facts


def choose(network: bytes, found: Found, parts: Sequence[Part]) -> tuple[float, dict[str, float]]:
    """The share of the residual that needs the fewest pods at the objective over many traffics, and its mean gains."""
    gains: dict[float, list[float]] = {kept: [] for kept in KEPT}
    for part in parts:
        pods, _, _ = pods_of_shares(network, found.settings["price"], part)
        for kept in KEPT:
            if np.isfinite(pods[kept] / pods[0.0]):
                gains[kept].append(1.0 - pods[kept] / pods[0.0])
    most = [kept for kept in KEPT if 2 * len(gains[kept]) >= len(parts)]  # a share that few of them can stand is none
    means = {kept: float(np.mean(gains[kept])) for kept in most if gains[kept]}
    best = max(means, key=lambda kept: means[kept], default=0.0)
    kept = best if means.get(best, 0.0) >= LEAST_GAIN else 0.0
    return kept, {f"{kept:g}": mean for kept, mean in means.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, makes the model and says what it is."""
    parser = argparse.ArgumentParser(prog="python -m agents.learning.general", description=__doc__)
    parser.add_argument("traces", nargs="*", type=Path, help="trace files, beside the bundled generators")
    parser.add_argument("-o", "--output", type=Path, default=GENERAL)
    parser.add_argument("--search-days", type=float, default=2000.0)
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--learners", type=int, default=1, help="networks with seeds of their own, which are averaged")
    parser.add_argument("--price-of", type=Path, help="only set the price of the error budget of this model anew")
    given = parser.parse_args(arguments)
    traces = traffic_of(given.traces)
    if given.price_of is not None:
        model, facts = priced(given.price_of.read_bytes(), parts_of(traces))
    else:
        model, facts = make(traces, given.search_days, given.steps, given.learners)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_bytes(model)
    digest = hashlib.sha256(model).hexdigest()
    given.output.with_suffix(".sha256").write_text(f"{digest}  {given.output.name}\n")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
