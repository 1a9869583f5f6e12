"""What a flow is asked: one model, so that Prefect shows a whole form and refuses bad values before a run exists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from experiments.spec import Spec


class SweepRequest(BaseModel):
    """A sweep: its specification, and what differs from it this time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str = Field(description="Path of a sweep specification (YAML), or the name of a bundled one.")
    trace: str | None = Field(default=None, description="Play this trace file in place of the specification's traffic.")
    traffic: str | None = Field(default=None, description="Play this bundled generator in place of it.")
    scale_peak_to_replicas: int | None = Field(
        default=None, ge=1, description="Map the traffic's peak to what so many replicas serve at 70 % utilization."
    )
    actors: int | None = Field(default=None, ge=1, le=256, description="Simulation actors; default: one a CPU.")
    state: str | None = Field(default=None, description="State folder; default: $DEVOPS_SIM_HOME, else ./.devops-sim.")

    def resolve(self) -> Spec:
        """The specification as it is to run.

        Raises:
            SpecError: it breaks the schema, with or without the differences; every problem at once.
        """
        from experiments.spec import load_spec, spec_from_dict
        from sim_core.errors import SpecError

        if self.trace and self.traffic:
            raise SpecError("--trace and --traffic", "give one of them")
        spec = load_spec(self.spec)
        data = spec.to_dict()
        if self.trace:
            data["traffic"] |= {"trace": str(Path(self.trace).absolute()), "generator": None}
        if self.traffic:
            data["traffic"] |= {"trace": None, "generator": self.traffic}
        if self.scale_peak_to_replicas:
            data["traffic"] |= {"scale_peak_to_replicas": self.scale_peak_to_replicas}
        return spec if data == spec.to_dict() else spec_from_dict(data, f"{self.spec} with the options given")
