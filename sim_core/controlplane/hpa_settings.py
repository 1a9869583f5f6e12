"""What a policy may change in every HPA of a profile; all else stays as the profile says."""

from __future__ import annotations

HPA_SETTINGS = (
    "target_cpu_utilization_pct",
    "scale_up_stabilization_window_seconds",
    "scale_down_stabilization_window_seconds",
    "scale_down_percent_per_minute",
    "tolerance",
    "min_replicas",
)
