"""Maxima of records that follow the Kubernetes API: all other sizes come from profiles."""

from __future__ import annotations

MAX_CONTAINERS = 4  # a pod
MAX_METRICS = 6  # an autoscaler
