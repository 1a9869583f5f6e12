"""Contestants by their names: tuned within one budget, each with the frontier of the one setting that trades pods for good
requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any

import numpy as np

from agents.learning.protocol import CEILINGS, LEARNED, UNLEARNED, Contestant, Fit
from agents.learning.search import DAY_S, Family, Part, Settings, search
from agents.policies.contract import Policy
from agents.policies.learned import LearnedPolicy, general_policy
from agents.policies.registry import KEPT, Choice, choice_of, known, policy_of, tuned_policy
from agents.policies.settings import LEARNED as LEARNED_SETTINGS
from agents.policies.settings import problems_of
from sim_core.errors import PolicyError

PRICE_KNOB = "bad_request_price"  # trades pods for good requests where a policy weighs one against the other
PRICES = tuple(float(price) for price in np.geomspace(0.004, 2.0, 8))
_PRICE_STEP = 3.0
PRICE_FACTOR = "price_factor"  # of a learned policy's own price of the error budget
PRICE_FACTORS = (0.15, 0.35, 0.6, 1.0, 1.7, 3.0, 6.0)
LEARNED_SHARE = 0.25  # of the budget of a trained agent that it learns with; its rule is searched with the rest
TRAINING_SEEDS = 2


def known_contestants() -> list[str]:
    """Policies that are compared unless others are named: all whose settings are searched, and the ceilings."""
    others = (*CEILINGS, *LEARNED)
    names = [name for name in known("benchmark") if choice_of(name, "benchmark").tuned or name in others]
    return [*names, *(f"{name}{UNLEARNED}" for name in LEARNED)]


def contestant_of(choice: Choice, parts: Sequence[Part], budget_days: float, threads: int = 2) -> Contestant:
    """A policy of this package or of the user's own as a contestant.

    Settings that are given are kept; else they are searched on each part. A policy without a knob has no frontier: it is
    one point.

    Args:
        parts: of the traffic that it may be tuned on, one a fit.
        budget_days: simulated days that the search on a part may spend.
        threads: that a search plays on.

    Raises:
        PolicyError: the policy cannot be made.
    """
    entry = choice.entry
    if entry is not None and entry.trained:
        return trained_contestant(choice, parts, budget_days)
    if choice.name == "general" and "price" not in choice.settings:
        return learned_contestant(choice.text, [general_policy(**choice.settings)])
    family: Family | None = resolve_name(entry.family) if entry is not None and entry.family is not None else None
    if family is not None and (choice.tuned or family.knob in choice.settings):
        return Contestant(
            choice.text, [family_fit(family, part, choice.settings, budget_days, threads) for part in parts]
        )
    if choice.tuned:
        made = [tuned_policy(choice, part.profile, part.trace, part.start_s, part.end_s, budget_days) for part in parts]
        return Contestant(choice.text, [_as_it_is(policy) for policy in made], by_lane=False)
    return Contestant(choice.text, [_priced_fit(choice)], by_lane=False)


def learned_contestant(name: str, models: Sequence[LearnedPolicy]) -> Contestant:
    """Learned policies that differ in their training seeds as one contestant, each with prices around its own."""
    frontier: list[Settings] = [{PRICE_FACTOR: factor} for factor in PRICE_FACTORS]

    def wider(settings: Settings, last: bool) -> Settings | None:
        factor = settings[PRICE_FACTOR] * (_PRICE_STEP if last else 1.0 / _PRICE_STEP)
        return {PRICE_FACTOR: factor} if 1e-3 <= factor <= 1e3 else None

    made: list[Callable[[Sequence[Mapping[str, Any]]], Policy]] = [
        lambda by_lane, model=model: model.priced(by_lane[0][PRICE_FACTOR])  # type: ignore[misc]
        for model in models
    ]
    return Contestant(name, [Fit({PRICE_FACTOR: 1.0}, frontier, made, wider)], by_lane=False)


def trained_contestant(choice: Choice, parts: Sequence[Part], budget_days: float) -> Contestant:
    """Agents that are trained on a part, search and learning within the budget, one a training seed.

    Raises:
        PolicyError: policies are to be tuned anew before each day, which trainings are too long for; a wrong setting.
    """
    if len(parts) > 1:
        raise PolicyError(choice.text, "is trained once, before the first held-out day; leave --refit out")
    (part,) = parts
    kept = choice.settings.get(KEPT)
    if problems := problems_of(LEARNED_SETTINGS, choice.settings):
        raise PolicyError(choice.text, problems)
    models = _trained(part, budget_days)
    return learned_contestant(choice.text, [LearnedPolicy(model, choice.text, kept=kept) for model in models])


@lru_cache(maxsize=4)  # a policy is compared with its own rule, which is the same training
def _trained(part: Part, budget_days: float) -> list[bytes]:
    from agents.learning.train import TrainRequest, train  # torch, only where something is trained

    learned_days = LEARNED_SHARE * budget_days
    steps = max(1, int(learned_days * DAY_S / part.profile.controller.sync_period_seconds))
    request = TrainRequest(
        part.profile, part.trace, part.start_s, part.end_s, steps, search_days=budget_days - learned_days
    )
    return [train(replace(request, seed=seed)).onnx for seed in range(1, TRAINING_SEEDS + 1)]


def family_fit(family: Family, part: Part, given: Mapping[str, Any], budget_days: float, threads: int = 2) -> Fit:
    """A family with the settings that are given, or with those that a search finds, and its frontier around them."""
    tuned = dict(given) or search(family, part, budget_days, threads=threads).settings
    knob = next(parameter for parameter in family.parameters(part) if parameter.name == family.knob)
    step = max(
        factor / before for before, factor in zip(family.knob_factors[:-1], family.knob_factors[1:], strict=True)
    )

    def wider(settings: Settings, last: bool) -> Settings | None:
        value = settings[knob.name] * (step if last else 1.0 / step)
        if knob.whole:
            value = max(value, settings[knob.name] + 1) if last else min(value, settings[knob.name] - 1)
        value = knob.at(knob.to_unit(min(max(value, knob.low), knob.high)))
        return None if value == settings[knob.name] else {**settings, knob.name: value}

    frontier = family.frontier(tuned, part)
    # A value that went through the scale of its range and back is the same but for rounding: it is not played twice.
    frontier = [tuned if np.isclose(entry[knob.name], tuned[knob.name], rtol=1e-9) else entry for entry in frontier]
    return Fit(tuned, frontier, [family.policy_of], wider)


def _as_it_is(policy: Policy) -> Fit:
    return Fit(dict(getattr(policy, "settings", {})), [], [lambda by_lane: policy])


def _priced_fit(choice: Choice) -> Fit:
    """A policy with its settings, and with prices of a bad request where it takes one and none is given."""
    settings = dict(choice.settings)

    def made(by_lane: Sequence[Mapping[str, Any]]) -> Policy:
        return policy_of(replace(choice, settings=dict(by_lane[0])))

    def dearer(settings: Settings, last: bool) -> Settings | None:
        return {**settings, PRICE_KNOB: settings[PRICE_KNOB] * (_PRICE_STEP if last else 1.0 / _PRICE_STEP)}

    if choice.entry is None or PRICE_KNOB not in choice.entry.settings or PRICE_KNOB in settings:
        return Fit(settings, [], [made])
    return Fit(settings, [{**settings, PRICE_KNOB: price} for price in PRICES], [made], dearer)
