"""Ctrl-C and SIGTERM leave runs in Prefect that were CANCELLED; by itself it would call them CRASHED."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.context import FlowRunContext, TaskRunContext
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

    A worker has rules of its own for what it ends (`prefect flow-run cancel`), so the state of those flows is left to
    Prefect; their tasks hand the stop on to them.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R | State:
        try:
            return function(*args, **kwargs)
        except PoolClosed as stop:
            return Cancelled(message=str(stop))
        except (KeyboardInterrupt, SystemExit, TerminationSignal) as stop:
            if _is_of_a_worker() and TaskRunContext.get() is None:
                raise
            _stops.append(stop)
            return Cancelled(message=f"Stopped by {_cause(stop)}.")

    return run


@contextlib.contextmanager
def stops_go_on() -> Iterator[None]:
    """Around the call of a flow: what stopped it is raised again, as the command line knows it."""
    try:
        yield
    except CancelledRun:
        stop = _stops.pop() if _stops else KeyboardInterrupt()
        # Prefect puts its own exception in place of what the command line raises on SIGTERM.
        raise SystemExit(128 + stop.signal) if isinstance(stop, TerminationSignal) else stop from None


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
    number = stop.signal if isinstance(stop, TerminationSignal) else 0
    if isinstance(stop, SystemExit):
        number = stop.code - 128 if isinstance(stop.code, int) else 0
    if isinstance(stop, KeyboardInterrupt):
        return "Ctrl-C"
    return signal.Signals(number).name if number > 0 else "an exit"
