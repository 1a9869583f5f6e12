"""A trained policy: the rule of `agents/policies/rule.py` with a residual from an ONNX model. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from agents.features import FEATURES, LAYOUT_VERSION, N_FEATURES, choose_lanes, see_lanes
from agents.observation import Observations
from agents.policies.rule import NOTHING, RULE_STATE, batch_of_rules
from agents.policies.settings import LEARNED, RULE, completed, for_lanes, problems_of
from sim_core.errors import ModelError, PolicyError
from sim_core.world import Lane, Scaler

# Trained on many kinds of traffic by `agents.learning.general`; see the card beside it.
GENERAL = Path(__file__).parent.parent / "models" / "general.onnx"


class LearnedPolicy:
    """Desired replicas from an ONNX model, see `agents.learning.export`.

    Args:
        model: the ONNX file's content.
        name: for tables.
        metadata: what the model was trained on, as registered with it.
        price: of the error budget, instead of the model's own; what trades pods for good requests.
        kept: share of the residual that is kept, instead of the model's own [1]; with 0 the rule alone decides.

    Raises:
        ModelError: the content is no such model, or one for another layout of features.
    """

    def __init__(
        self,
        model: bytes,
        name: str = "agent",
        metadata: dict[str, Any] | None = None,
        price: float | None = None,
        kept: float | None = None,
    ):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(name, f"must be an ONNX model that onnxruntime can load ({error})") from error
        told = self._session.get_modelmeta().custom_metadata_map
        layout = told.get("layout", "1")
        if layout != str(LAYOUT_VERSION):
            raise ModelError(
                name,
                f"reads features of layout version {layout}; this version makes layout {LAYOUT_VERSION}; train it again",
            )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = [list(place.shape) for place in (*inputs, *outputs)]
        if len(shape) != 2 or len(shape[0]) != 2 or shape[0][1] != N_FEATURES or shape[1][1:] != [1]:
            raise ModelError(name, f"must map {N_FEATURES} features of a service to one residual (got shapes {shape})")
        if json.loads(told.get("features", "[]")) != list(FEATURES):
            raise ModelError(name, "reads features of other names than this version makes; train it again")
        self.model = model
        self.name = name
        self.metadata = metadata or {}
        missing = [key for key in ("rule", "kept") if key not in told]
        if missing:
            raise ModelError(
                name, f"must tell {' and '.join(missing)} in its metadata, as `agents.learning.export` writes"
            )
        rule = json.loads(told["rule"])
        if problems := problems_of(RULE, rule):
            raise ModelError(name, problems)
        self.rule: dict[str, float] = completed(name, RULE, rule)
        if price is not None:
            self.rule["price"] = price
        self.kept = float(json.loads(told["kept"])) if kept is None else kept
        self.about: dict[str, Any] = json.loads(told.get("about", "{}"))
        self._input = inputs[0].name
        self._chosen: list[Mapping[str, float]] = []  # settings by lane; none: its own for all
        self._kept = np.zeros(0)
        self.rules, self.capacity = np.zeros(0), NOTHING
        self.states = np.zeros(0, dtype=RULE_STATE)
        self.features = np.zeros((0, N_FEATURES), dtype=np.float32)

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's settings and the share of the residual that is kept."""
        return {**self.rule, "kept": self.kept}

    def priced(self, factor: float) -> LearnedPolicy:
        """The same model with a multiple of its price of the error budget, within what a price may be."""
        price = next(setting for setting in RULE if setting.name == "price")
        own = min(max(self.rule["price"] * factor, price.low), price.high)
        return LearnedPolicy(self.model, self.name, self.metadata, own, self.kept)

    def by_lane(self, settings: Sequence[Mapping[str, float]]) -> LearnedPolicy:
        """The same network, which plays lane k with settings k: those of the rule, and `kept`."""
        made = LearnedPolicy(self.model, self.name, self.metadata)
        made._chosen = list(settings)
        return made

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        chosen = for_lanes(self._chosen or [self.settings], len(lanes))
        rules = [{name: value for name, value in own.items() if name != "kept"} for own in chosen]
        self.rules, self.capacity = batch_of_rules(
            [(lane.profile, own) for lane, own in zip(lanes, rules, strict=True)]
        )
        self._kept = np.repeat([own["kept"] for own in chosen], [len(lane.profile.services) for lane in lanes])
        self.states = np.zeros(len(self.rules), dtype=RULE_STATE)
        self.features = np.zeros((len(self.rules), N_FEATURES), dtype=np.float32)

    def predict(self, observations: Observations) -> np.ndarray:
        observations.decide(see_lanes, self.rules, self.states, self.features)
        residuals = np.zeros(len(self.rules))
        if self._kept.any():
            residuals[:] = self._kept * self.residuals(self.features)
        desired = np.zeros((observations.n_lanes, observations.n_services), dtype=np.int64)
        capacity = self.capacity
        observations.decide(
            choose_lanes, self.rules, self.states, capacity.bad, capacity.least, capacity.most, residuals, desired
        )
        return desired

    def residuals(self, features: np.ndarray) -> np.ndarray:
        """What the network adds to the logs of loads, float32, shape (n,), for features of shape (n, N_FEATURES)."""
        return np.asarray(self._session.run(None, {self._input: features})[0])[:, 0]

    def scalers(self) -> list[Scaler] | None:
        return None


def general_policy(price: float | None = None, kept: float | None = None) -> LearnedPolicy:
    """The pretrained model that comes with this package, for traffic that nobody has trained on.

    Args:
        price: of the error budget, instead of its own.
        kept: share of the residual that is kept, instead of its own [1].

    Raises:
        ModelError: the file is missing, or is not the one that this version was released with.
        PolicyError: a price or a share that is none; both at once.
    """
    given = {name: value for name, value in (("price", price), ("kept", kept)) if value is not None}
    if problems := problems_of(LEARNED, given):
        raise PolicyError("general", problems)
    try:
        model = GENERAL.read_bytes()
    except OSError as error:
        raise ModelError("general", f"{GENERAL} cannot be read ({error.strerror}); install the package anew") from None
    digest = hashlib.sha256(model).hexdigest()
    released = GENERAL.with_suffix(".sha256").read_text().split()[0] if GENERAL.with_suffix(".sha256").exists() else ""
    if digest != released:
        raise ModelError(
            "general",
            f"{GENERAL} has SHA-256 {digest[:16]}..., released was {released[:16]}...; install the package anew",
        )
    return LearnedPolicy(model, "general", price=price, kept=kept)
