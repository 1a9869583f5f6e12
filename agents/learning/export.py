"""A trained policy as an ONNX file: observation vectors in, desired replicas out, nothing that can run code."""

from __future__ import annotations

import io
from typing import Any

import torch

from agents.actions import BASES, N_ACTIONS, PEAK_FEATURE, TARGET_UTILIZATIONS
from agents.observation import LOG_LOAD_CENTER, N_SERVICE_FEATURES, observation_size
from sim_core.profile import Profile

INPUT, OUTPUT = "observation", "replicas"


class _DesiredReplicas(torch.nn.Module):
    """The policy network, its most probable action, and `agents.actions.replicas_for` in tensors."""

    def __init__(self, policy: Any, profile: Profile, headroom: float):
        super().__init__()
        self.n_services = len(profile.services)
        self.features = policy.mlp_extractor.policy_net
        self.action_net = policy.action_net
        self.headroom = headroom
        self.register_buffer("targets", torch.tensor(TARGET_UTILIZATIONS, dtype=torch.float64))
        self.register_buffer("limits", torch.tensor([[s.replicas.min, s.replicas.max] for s in profile.services]))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        logits = self.action_net(self.features(observation))
        season = self.n_services * N_SERVICE_FEATURES
        columns = []
        for i in range(self.n_services):
            at = i * N_SERVICE_FEATURES
            changes = []
            for window, ahead in BASES.tolist():
                parts = []
                if window > 0:
                    parts.append(observation[:, at + PEAK_FEATURE + window])
                if ahead >= 0:
                    parts.append(observation[:, season + ahead])
                changes.append(
                    torch.maximum(*parts) if len(parts) == 2 else parts[0] if parts else observation[:, at] * 0.0
                )
            log_load = observation[:, at : at + 1].double() + LOG_LOAD_CENTER + torch.stack(changes, dim=1).double()
            wanted = torch.exp(log_load).unsqueeze(2) * self.headroom / self.targets - 1e-3
            choices = torch.ceil(wanted).flatten(start_dim=1)
            action = logits[:, i * N_ACTIONS : (i + 1) * N_ACTIONS].argmax(dim=1, keepdim=True)
            replicas = choices.gather(1, action).squeeze(1)
            columns.append(
                torch.minimum(torch.maximum(replicas, self.limits[i, 0].double()), self.limits[i, 1].double())
            )
        return torch.stack(columns, dim=1).to(torch.int64)


def export_onnx(policy: Any, profile: Profile, headroom: float) -> bytes:
    """The policy as ONNX.

    Args:
        policy: an SB3 `ActorCriticPolicy` trained on this profile's spaces.
        headroom: factor on the replicas before they are rounded up [1].

    Returns:
        A model with input `observation`, float32 (n, observation_size), and output `replicas`, int64 (n, n_services).
    """
    module = _DesiredReplicas(policy, profile, headroom).eval()
    example = torch.zeros((2, observation_size(len(profile.services))))
    file = io.BytesIO()
    torch.onnx.export(
        module, (example,), file, dynamo=False, opset_version=17, input_names=[INPUT], output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "n"}, OUTPUT: {0: "n"}},
    )  # fmt: skip
    return file.getvalue()
