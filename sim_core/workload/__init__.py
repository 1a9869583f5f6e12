"""Traffic: traces from files, and what arrives in a tick."""

from sim_core.workload.trace import Trace, read_trace

__all__ = ["Trace", "read_trace"]
