"""What a policy may change in every HPA of a profile; all else stays as the profile says."""

from __future__ import annotations

# Settings of a pace are policies of the API's behavior with a period of 60 s. Those that are set of a direction replace
# all policies that it has; of a percentage and a number of pods the profile's selectPolicy takes one, by default the
# larger change.
HPA_SETTINGS = (
    "target_cpu_utilization_pct",
    "scale_up_stabilization_window_seconds",
    "scale_down_stabilization_window_seconds",
    "scale_up_percent_per_minute",
    "scale_up_pods_per_minute",
    "scale_down_percent_per_minute",
    "scale_down_pods_per_minute",
    "tolerance",
    "min_replicas",
)
