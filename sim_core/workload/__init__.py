"""Traffic: traces from files, generators, and what arrives in a tick."""

from sim_core.workload.generator import TrafficModel, bundled_traffic, bundled_traffics, fit_traffic
from sim_core.workload.trace import Trace, read_trace

__all__ = ["Trace", "TrafficModel", "bundled_traffic", "bundled_traffics", "fit_traffic", "read_trace"]
