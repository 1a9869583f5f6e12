"""Ctrl-C and SIGTERM leave runs in Prefect that were CANCELLED; by itself it would call them CRASHED."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun, TerminationSignal
from prefect.states import Cancelled, State

from experiments.compute.actors import PoolClosed

P = ParamSpec("P")
R = TypeVar("R")


# A signal stops the process as a whole, so that one is all there can be. A state cannot carry it: Prefect would raise it in
# the event loop that it shares with everything else.
_stops: list[BaseException] = []


def stoppable(function: Callable[P, R]) -> Callable[P, R | State]:
    """The function of a flow or task: where it is stopped it returns a CANCELLED state; see `stops_go_on`.

    A worker has rules of its own for what it ends (`prefect flow-run cancel`), so those runs are left to Prefect.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R | State:
        try:
            return function(*args, **kwargs)
        except PoolClosed as stop:
            return Cancelled(message=str(stop))
        except (KeyboardInterrupt, SystemExit, TerminationSignal) as stop:
            if _is_of_a_worker():
                raise
            # Prefect puts its own exception in place of what the command line raises on SIGTERM.
            _stops.append(SystemExit(128 + stop.signal) if isinstance(stop, TerminationSignal) else stop)
            return Cancelled(message=f"Stopped by {_cause(_stops[-1])}.")

    return run


@contextlib.contextmanager
def stops_go_on() -> Iterator[None]:
    """Around the call of a flow: what stopped it is raised again."""
    try:
        yield
    except CancelledRun:
        raise (_stops.pop() if _stops else KeyboardInterrupt()) from None


class StoppableTask(Task):
    """A task that hands a stop on to the flow that called it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        value = super().__call__(*args, **kwargs)
        if isinstance(value, State) and value.is_cancelled():
            raise _stops.pop()
        return value


def task(**options: Any) -> Callable[[Callable[..., Any]], StoppableTask]:
    """`prefect.task` for functions that may be stopped."""
    return lambda function: StoppableTask(fn=stoppable(function), **options)


def _is_of_a_worker() -> bool:
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.deployment_id)


def _cause(stop: BaseException) -> str:
    if isinstance(stop, SystemExit):
        return signal.Signals(stop.code - 128).name if isinstance(stop.code, int) and stop.code > 128 else "an exit"
    return "Ctrl-C"
