"""A trained policy: an ONNX model run on observation vectors. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

from agents.observation import Observations, observation_size
from sim_core.errors import ModelError
from sim_core.world import Lane, Scaler


class LearnedPolicy:
    """Desired replicas from an ONNX model, see `agents.learning.export`.

    Args:
        model: the ONNX file's content.
        name: for tables.
        metadata: what the model was trained on, as registered with it.

    Raises:
        ModelError: the content is no such model.
    """

    def __init__(self, model: bytes, name: str = "agent", metadata: dict[str, Any] | None = None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(name, f"must be an ONNX model that onnxruntime can load ({error})") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 2 or len(outputs[0].shape) != 2:
            raise ModelError(name, "must map observation vectors (n, size) to replicas (n, services)")
        self.name = name
        self.metadata = metadata or {}
        self._input, self._size, self._n_services = inputs[0].name, inputs[0].shape[1], outputs[0].shape[1]

    def fits(self, n_services: int) -> bool:
        """Whether it reads the observations of so many services, as this version makes them."""
        return bool(self._size == observation_size(n_services))

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        n_services = max(len(lane.profile.services) for lane in lanes)
        if not self.fits(n_services):
            raise ModelError(
                self.name,
                f"reads observations of {self._size} entries; profile '{lanes[0].profile.name}' gives "
                f"{observation_size(n_services)}; use a model that was trained on this profile",
            )

    def predict(self, observations: Observations) -> np.ndarray:
        return np.asarray(self._session.run(None, {self._input: observations.vectors})[0])

    def scalers(self) -> list[Scaler] | None:
        return None
