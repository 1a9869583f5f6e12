"""The one contract of everything that decides: `predict(observations) -> desired replicas`, vectorised over lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from agents.observation import Observations
from sim_core.dataplane.services.kinds import EXTERNAL
from sim_core.engines import FLUID, check_engine
from sim_core.simulation import Simulation, TimelineRecorder, Worlds, check_duration, simulate
from sim_core.world import Lane, Scaler

# Where `predict` is asked every few ticks, to hand so few services over to other threads takes longer than to play them:
# 40 lanes of `production` take 0.04 ms from one decision to the next on one thread, and 0.5 ms on two.
_FEW_SERVICES = 500


class Policy(Protocol):
    """Whoever decides how many replicas there shall be."""

    name: str

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        """Begins anew for these lanes; a policy may keep a memory of each, from what `predict` sees.

        Only a clairvoyant policy may look at the lanes' traffic and seeds.
        """

    def predict(self, observations: Observations) -> np.ndarray:
        """Desired replicas, int64, shape (n_lanes, n_services) [pods]; the Deployment's limits are applied after."""

    def scalers(self) -> list[Scaler] | None:
        """The same decisions as scalers inside the simulation, one a lane, where there are such; else None."""


def play(
    lanes: Sequence[Lane],
    policy: Policy,
    duration_s: float,
    timeline_step_s: float | None = None,
    *,
    through_predict: bool = False,
    engine: str = FLUID,
    threads: int = 1,
    trace_share: float = 0.0,
    on_end: Callable[[Worlds], None] = lambda worlds: None,
    at_sync: Callable[[Worlds], None] | None = None,
) -> Simulation:
    """Plays lanes under a policy; their own scalers are replaced.

    Args:
        duration_s: how long [s].
        timeline_step_s: record a timeline with this step, a multiple of the controller's sync period [s].
        through_predict: ask `predict` even where the simulation can decide by itself; slower, with the same outcome.
        engine, threads: see `sim_core.simulation.Worlds`; few lanes that `predict` decides for are played on one thread.
            What a policy tries out before, in `reset`, it tries in the fluid engine.
        trace_share: of the requests that leave spans behind, see `Worlds` [1].
        on_end: gets the worlds as they are at the end, where `trace_share` is not 0: their spans can be taken then.
        at_sync: gets the worlds at the beginning of every sync period, and may change them: what goes wrong from outside.

    Raises:
        InputError: see `simulate`.
    """
    check_duration(lanes, duration_s)
    check_engine(engine)
    policy.reset(lanes, duration_s)
    scalers = policy.scalers()
    if scalers is None:
        scalers = [Scaler.external()] * len(lanes)
        through_predict = True
    steered = [replace(lane, scaler=scaler) for lane, scaler in zip(lanes, scalers, strict=True)]
    if not through_predict and trace_share == 0.0 and at_sync is None:
        return simulate(steered, duration_s, timeline_step_s, engine, threads)
    if through_predict and engine == FLUID and sum(len(lane.profile.services) for lane in lanes) < _FEW_SERVICES:
        threads = 1
    # With the replicas that the policy's own scalers would begin with.
    worlds = Worlds(steered, engine, threads, trace_share)
    if through_predict:
        worlds.tables.services["scaler"]["kind"] = EXTERNAL
    observations = Observations(worlds)
    tick_s = float(worlds.params["tick_s"][0])
    n_ticks = round(duration_s / tick_s)
    sync_ticks = int(worlds.params["sync_ticks"].min())
    recorder = TimelineRecorder(worlds) if timeline_step_s is not None else None
    record_ticks = round((timeline_step_s or duration_s) / tick_s)
    for begin in range(0, n_ticks, sync_ticks):
        end = min(begin + sync_ticks, n_ticks)
        if at_sync is not None:
            at_sync(worlds)
        if through_predict:
            # Every lane is synced once in this stretch, at a moment of its own: there the policy sees it.
            worlds.advance(np.minimum(worlds.state["next_sync_tick"], end) - worlds.state["tick"])
            worlds.request_replicas(policy.predict(observations))
        worlds.advance(end - worlds.state["tick"])
        if recorder is not None and (end % record_ticks == 0 or end == n_ticks):
            recorder.record()
    if trace_share > 0.0:
        on_end(worlds)
    return Simulation.of(worlds, recorder)
