"""A broker of messages in a profile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from sim_core.documents import Number, Problem, Section

KEY = "broker"
DESCRIPTION = "A broker; null: none."


class Broker(Section):
    """Queues of messages between services."""

    partitions: int = Field(ge=1, le=1000, description="Queues side by side [queues].")
    consumers: int = Field(default=1, ge=1, le=1000, description="Who reads them [consumers].")
    publish_seconds: Number = Field(ge=0, le=10, description="Mean time of publishing a message [s].")


SECTION = Broker


def broken_rules(profile: Any) -> Iterator[Problem]:
    """More consumers than partitions: the rest would never get a message."""
    if profile.broker is not None and profile.broker.consumers > profile.broker.partitions:
        rule = f"must be at most broker.partitions {profile.broker.partitions}"
        yield Problem((KEY, "consumers"), rule, profile.broker.consumers)
