"""Every policy by its name: what makes it, what it may be set to, what it needs, and where it may be named.

Whoever names policies asks here: the command line, specifications, comparisons on held-out traffic, simulation actors.
A policy is named by

- a name of `POLICIES`, with settings where they are not the usual ones: `hpa`, `hpa(target_cpu_utilization_pct=60)`;
- the address of a registered model: `models:/NAME@ALIAS`;
- a class or function in a user's own module, `my_module:MyPolicy(target=0.7)`, or the name under which an installed
  package offers one (entry points of the group `devops_sim.policies`): see `agents.policies.own`.

Nothing heavy is imported before a policy is built: a wrong name is refused at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from agents.policies.settings import CLAIRVOYANT, FORECAST, PACE_SETTINGS, REQUEST_RATE, RULE, SCHEDULED, names_of
from sim_core.controlplane.hpa_settings import HPA_SETTINGS
from sim_core.errors import PolicyError, nearest

if TYPE_CHECKING:
    from agents.learning.search import Family
    from agents.policies.contract import Policy
    from sim_core.profile import Profile
    from sim_core.workload import Trace
    from sim_core.world import Scaler

# Where policies are named: `devops-sim run`; `devops-sim evaluate`; the sections `policies` and `evaluation` of a
# specification.
Place = Literal["run", "evaluate", "sweep", "evaluation", "benchmark"]

ENTRY_POINTS = "devops_sim.policies"
MODEL_FORM = "models:/NAME@ALIAS"
OWN_FORM = "my_module:MyPolicy"
_MODEL = re.compile(r"models:/[^/@]+(@[^/@]+|/\d+)")
_LOGGED_MODEL = re.compile(r"models:/m-[0-9a-f]{32}|runs:/[0-9a-f]{32}(/.+)?")  # for specifications
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
KEPT = "kept"  # share of a learned residual that is kept [1]; with 0 the rule alone is left
_FAMILIES = "agents.learning.families"
_CALL = re.compile(r"([^(]*)\((.*)\)", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One policy of this package.

    Args:
        factory: what makes it from its settings, as module:name.
        places: where it may be named.
        settings: the names of its settings.
        required: those without which it cannot be made.
        family: what its settings may be and which of them trades pods for good requests, as module:name of a
            `agents.learning.search.Family`.
        tuned: comparisons on held-out traffic search for its settings, on the traffic before, where none are given.
        scaler: the same as a scaler inside the simulation, as module:name; sweeps need it.
        trained: only the specification's own section `train` makes it.
    """

    name: str
    factory: str
    places: frozenset[Place]
    settings: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    family: str | None = None
    tuned: bool = False
    scaler: str | None = None
    trained: bool = False


def _entry(name: str, factory: str, *places: Place, **more: Any) -> Entry:
    return Entry(name, factory, frozenset(places), **more)


POLICIES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        _entry(
            "static", "agents.policies.static:StaticPolicy", "run", "evaluate", "sweep", "evaluation",
            settings=("replicas",), required=("replicas",), family=f"{_FAMILIES}:STATIC", tuned=True,
            scaler="sim_core.world:Scaler.static",
        ),
        _entry(
            "hpa", "agents.policies.hpa:HpaPolicy", "run", "evaluate", "sweep", "evaluation",
            settings=HPA_SETTINGS, family=f"{_FAMILIES}:HPA", scaler="sim_core.world:Scaler.hpa",
        ),
        _entry(
            "hpa-tuned", "agents.policies.hpa:HpaPolicy", "evaluate", "evaluation",
            family=f"{_FAMILIES}:HPA", tuned=True,
        ),
        _entry(
            "request-rate", "agents.policies.request_rate:RequestRatePolicy", "run", "evaluate", "evaluation",
            settings=(*names_of(REQUEST_RATE), *PACE_SETTINGS), family=f"{_FAMILIES}:REQUEST_RATE", tuned=True,
        ),
        _entry(
            "scheduled", "agents.policies.scheduled:ScheduledPolicy", "run", "evaluate", "evaluation",
            settings=(*names_of(SCHEDULED), *PACE_SETTINGS), family=f"{_FAMILIES}:SCHEDULED", tuned=True,
        ),
        _entry(
            "forecast", "agents.policies.forecast:ForecastPolicy", "run", "evaluate", "evaluation",
            settings=(*names_of(FORECAST), *PACE_SETTINGS), family=f"{_FAMILIES}:FORECAST", tuned=True,
        ),
        _entry(
            "rule", "agents.policies.rule:RulePolicy", "run", "evaluate", "evaluation",
            settings=names_of(RULE), family=f"{_FAMILIES}:RULE", tuned=True,
        ),
        _entry(
            "general", "agents.policies.learned:general_policy", "run", "evaluate", "evaluation",
            settings=("price", KEPT),
        ),
        _entry(
            "known-rates", "agents.policies.clairvoyant:KnownRatesPolicy", "run", "evaluate", "evaluation",
            settings=names_of(CLAIRVOYANT), family=f"{_FAMILIES}:KNOWN_RATES",
        ),
        _entry(
            "clairvoyant", "agents.policies.clairvoyant:ClairvoyantPolicy", "run", "evaluate", "evaluation",
            settings=names_of(CLAIRVOYANT), family=f"{_FAMILIES}:CLAIRVOYANT",
        ),
        _entry(
            "agent", "agents.policies.learned:LearnedPolicy", "evaluation", "benchmark", settings=(KEPT,), trained=True,
        ),
    )
}  # fmt: skip

# What an autoscaler of one's own is compared with: each with settings found on the traffic before.
RIVALS = ("static", "hpa-tuned", "request-rate", "scheduled", "forecast", "rule")
ALL_RIVALS = "all"
OPTIMUM = "clairvoyant"


def known(place: Place) -> list[str]:
    """Names of this package's policies that may be used at a place."""
    places = {place, "evaluate"} if place == "benchmark" else {place}
    return [entry.name for entry in POLICIES.values() if places & entry.places]


def described(place: Place) -> str:
    """What may be named at a place, for help and messages."""
    return ", ".join([*known(place), *([] if place == "sweep" else [MODEL_FORM, OWN_FORM])])


@dataclass(frozen=True)
class Choice:
    """A policy as somebody named it.

    Attributes:
        text: as written: its name in tables.
        name: without settings.
        settings: by name, as written.
    """

    text: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> Entry | None:
        """The policy of this package; None for a model or one of the user's own."""
        return POLICIES.get(self.name)

    @property
    def is_model(self) -> bool:
        """Whether it is a registered model."""
        return self.name.startswith(("models:", "runs:"))

    @property
    def is_own(self) -> bool:
        """Whether it is made by code from outside of this package."""
        return self.entry is None and not self.is_model

    @property
    def tuned(self) -> bool:
        """Whether its settings have to be found on the traffic before the held-out part."""
        return self.entry is not None and self.entry.tuned and not self.settings

    def with_settings(self, given: Mapping[str, Any]) -> Choice:
        """The same with settings that come from options; its own win."""
        return Choice(self.text, self.name, {**given, **self.settings})


def choice_of(text: str, place: Place) -> Choice:
    """The policy that a text names, if it may be named there. Its own settings are checked as far as names go.

    Raises:
        PolicyError: with every problem; `where` is the text.
    """
    choice, problems = _parsed(text.strip())
    if problems or not choice.name:
        raise PolicyError(text, problems or ["must name a policy"])
    problem = _name_problem(choice, place)
    if problem:
        raise PolicyError(text, problem)
    if choice.entry is not None:
        settings = () if choice.entry.trained and place != "benchmark" else choice.entry.settings
        problems = [
            f"{name}: unknown setting of {choice.name}{nearest(name, settings)}"
            for name in choice.settings
            if name not in settings
        ]
    elif choice.is_model and choice.settings:
        problems = ["a model has no settings"]
    if problems:
        raise PolicyError(text, problems)
    return choice


def choices_of(where: str, texts: Iterable[str], place: Place) -> list[Choice]:
    """The policies that texts name.

    Args:
        where: the option that named them, for the message.

    Raises:
        PolicyError: none, one twice, or wrong ones; all at once.
    """
    texts = [text.strip() for text in texts if text.strip()]
    problems = [] if texts else [f"must name at least one policy (known: {described(place)})"]
    problems += [f"{text!r} is named twice" for text in sorted({text for text in texts if texts.count(text) > 1})]
    choices = []
    for text in texts:
        try:
            choices.append(choice_of(text, place))
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(where, problems)
    return choices


def with_rivals(where: str, rivals: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Policies to be compared: rivals, the optimum, and the others that were named.

    Args:
        where: the option that named the rivals, for the message.
        rivals: names of RIVALS, or ALL_RIVALS; none: `texts` as they are.

    Raises:
        PolicyError: unknown rivals; all at once.
    """
    named = [name.strip() for name in rivals if name.strip()]
    texts = [text.strip() for text in texts]
    if not named:
        return texts
    choices = (ALL_RIVALS, *RIVALS)
    problems = [
        f"unknown rival {name!r} (known: {', '.join(choices)}){nearest(name, choices)}"
        for name in named
        if name not in choices
    ]
    if problems:
        raise PolicyError(where, problems)
    chosen = RIVALS if ALL_RIVALS in named else tuple(dict.fromkeys(named))
    return [*dict.fromkeys([*chosen, OPTIMUM]), *(text for text in texts if text not in (*chosen, OPTIMUM))]


def policy_of(choice: Choice) -> Policy:
    """Make a policy of this package or of the user's own, under the name it was given. Models: see `LearnedPolicy`.

    Raises:
        PolicyError: a setting is missing or wrong; a policy of the user's own cannot be imported or made.
    """
    if choice.is_own:
        from agents.policies.own import own_policy

        return own_policy(choice)
    assert choice.entry is not None
    missing = [name for name in choice.entry.required if name not in choice.settings]
    if missing:
        raise PolicyError(choice.text, [f"{name}: required setting is missing" for name in missing])
    policy: Policy = resolve_name(choice.entry.factory)(**choice.settings)
    policy.name = choice.text
    return policy


def check_made(choices: Iterable[Choice]) -> None:
    """Make each policy that needs nothing but its settings: what is wrong with one is found before anything starts.

    Raises:
        PolicyError: see `policy_of`.
    """
    for choice in choices:
        if not (choice.is_model or choice.tuned or (choice.entry and choice.entry.trained)):
            policy_of(choice)


def tuned_policy(
    choice: Choice, profile: Profile, trace: Trace, start_s: float, end_s: float, budget_days: float
) -> Policy:
    """A policy with the settings that the search of its family finds on a part of the traffic.

    Args:
        choice: a tuned one.
        start_s, end_s: the part [s].
        budget_days: simulated days that the search may spend.
    """
    from agents.learning.search import Part, search

    found = search(family_of(choice), Part(profile, trace, start_s, end_s), budget_days)
    return policy_of(choice.with_settings(found.settings))


def family_of(choice: Choice) -> Family:
    """What the settings of a policy of this package may be.

    Args:
        choice: one whose entry names a family.
    """
    assert choice.entry is not None and choice.entry.family is not None
    family: Family = resolve_name(choice.entry.family)
    return family


def scaler_of(name: str, settings: Mapping[str, Any]) -> Scaler:
    """The simulation's own scaler for a policy that sweeps know.

    Args:
        settings: of a checked specification.
    """
    scaler: Scaler = resolve_name(str(POLICIES[name].scaler))(**settings)
    return scaler


def installed() -> dict[str, str]:
    """Policies that installed packages offer, as module:name by the name they are offered under."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def split_outside(text: str, separator: str = ",") -> list[str]:
    """The parts of a text between separators that stand outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == separator and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def value_of(text: str) -> Any:
    """A setting as written: JSON (`0.5`, `null`, `[1, 2]`) if it is, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parsed(text: str) -> tuple[Choice, list[str]]:
    called = _CALL.fullmatch(text)
    if called is None:
        return Choice(text, text), []
    settings: dict[str, Any] = {}
    problems = []
    for part in split_outside(called[2]) if called[2].strip() else []:
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not name.isidentifier():
            problems.append(f"settings must read NAME=VALUE, as in {OWN_FORM}(target=0.7) (got {part.strip()!r})")
        elif name in settings:
            problems.append(f"{name}: given twice")
        else:
            settings[name] = value_of(value)
    return Choice(text, called[1].strip(), settings), problems


def _name_problem(choice: Choice, place: Place) -> str:
    name, names = choice.name, known(place)
    if name in names:
        return ""
    if place == "sweep":
        return f"must be one of {', '.join(names)}{nearest(name, names)}"
    if choice.is_model:
        logged = place == "evaluation" and _LOGGED_MODEL.fullmatch(name)
        form = f"a model must read {MODEL_FORM} or models:/NAME/VERSION (got {name!r})"
        return "" if logged or _MODEL.fullmatch(name) else form
    if _OWN.fullmatch(name):
        return ""
    if ":" in name:
        return f"a policy of your own must read {OWN_FORM} (got {name!r})"
    offered = installed()
    if name in offered:
        return ""
    return f"unknown policy {name!r} (known: {described(place)}){nearest(name, [*names, *offered])}"
