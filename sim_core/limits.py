"""Maxima of the records: how much of everything a world can hold. Profiles that ask for more are refused."""

from __future__ import annotations

MAX_SERVICES = 4  # a profile
MAX_PODS = 256  # a service, terminating pods included
MAX_CONTAINERS = 4  # a pod
MAX_METRICS = 6  # an autoscaler
MAX_RETRIES = 3  # of a call
RETRY_SLOTS = 64  # ticks; a retry lies less far ahead
