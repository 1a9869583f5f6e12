"""A trained policy as one ONNX file: features of a service in, a residual on the log of its load out, and the rule inside.

The network is in the graph, the rule's settings and what it was trained on are in the file's metadata as JSON. Nothing in
it can run code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch

from agents.env import MAX_RESIDUAL
from agents.features import FEATURES, LAYOUT_VERSION, N_FEATURES

INPUT, OUTPUT = "features", "residual"


class _Residual(torch.nn.Module):
    """The mean of what some policies would most probably do."""

    def __init__(self, policies: Sequence[Any]):
        super().__init__()
        self.bodies = torch.nn.ModuleList([policy.mlp_extractor.policy_net for policy in policies])
        self.heads = torch.nn.ModuleList([policy.action_net for policy in policies])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.bodies, self.heads, strict=True)
        actions = torch.stack([torch.clamp(head(body(features)), -1.0, 1.0) for body, head in pairs])
        return actions.mean(dim=0) * MAX_RESIDUAL


def export_onnx(
    policies: Sequence[Any], rule: Mapping[str, Any], kept: float, about: Mapping[str, Any] | None = None
) -> bytes:
    """Policies as one ONNX model.

    Args:
        policies: SB3 `ActorCriticPolicy`s trained with this rule; their residuals are averaged.
        rule: its settings.
        kept: share of the residual that whoever plays the model keeps [1]; with 0 the rule alone decides.
        about: what it was trained on, plain data.

    Returns:
        A model with input `features`, float32 (n, N_FEATURES), and output `residual`, float32 (n, 1).
    """
    module = _Residual(policies).eval()
    file = io.BytesIO()
    torch.onnx.export(
        module, (torch.zeros((2, N_FEATURES)),), file, dynamo=False, opset_version=17, input_names=[INPUT],
        output_names=[OUTPUT], dynamic_axes={INPUT: {0: "n"}, OUTPUT: {0: "n"}},
    )  # fmt: skip
    return with_metadata(file.getvalue(), {"rule": dict(rule), "kept": kept, "about": dict(about or {})})


def load_weights(policy: Any, model: bytes, kept: float) -> None:
    """Sets what a policy does to what a model does where its residual is kept in part; of several policies, to the first's.

    Args:
        policy: an `ActorCriticPolicy` with a network of the same shape.
        kept: share of the residual that is kept [1].
    """
    graph = onnx.load_model_from_string(model).graph
    stored = {tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    for module, prefix, scale in (
        (policy.mlp_extractor.policy_net, "bodies.0.", 1.0),
        (policy.action_net, "heads.0.", kept),
    ):
        weights = {
            name.removeprefix(prefix): scale * tensor for name, tensor in stored.items() if name.startswith(prefix)
        }
        module.load_state_dict(weights)


def with_settings(model: bytes, settings: Mapping[str, float]) -> bytes:
    """The same network with other settings: those of the rule, and `kept`."""
    rule = {name: value for name, value in settings.items() if name != "kept"}
    return with_metadata(model, {"rule": rule, "kept": settings["kept"]})


def with_metadata(model: bytes, changes: Mapping[str, Any]) -> bytes:
    """The same network with other metadata: `rule`, `kept`, `about`; layout and features are this version's."""
    loaded = onnx.load_model_from_string(model)
    known = {entry.key: entry.value for entry in loaded.metadata_props}
    known |= {"layout": str(LAYOUT_VERSION), "features": json.dumps(FEATURES)}
    known |= {name: json.dumps(value) for name, value in changes.items()}
    onnx.helper.set_model_props(loaded, known)
    return loaded.SerializeToString()
