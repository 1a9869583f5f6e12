"""Plain values as MLflow takes them, and what its failures are."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

FAILURES = (
    MlflowException,
    SQLAlchemyError,
    sqlite3.Error,
    OSError,
)  # OSError covers refused connections and full disks
_ADDRESS_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


@contextlib.contextmanager
def pointed_at(uri: str) -> Iterator[None]:
    """MLflow's process-wide addresses for the block, for what takes none as an argument.

    MLflow writes them into the environment, where they would pass for the user's own MLFLOW_TRACKING_URI afterwards.
    """
    import mlflow

    before = {name: os.environ.get(name) for name in _ADDRESS_VARIABLES}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def metrics_of(values: Mapping[str, Any], step: int = 0) -> list[Metric]:
    now_ms = int(time.time() * 1000)
    finite = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(float(value))}
    return [Metric(metric_name(name), value, now_ms, step) for name, value in finite.items()]


def with_interval(name: str, mean: Any, low: Any, high: Any) -> dict[str, Any]:
    return {name: mean, f"{name}/ci95_low": low, f"{name}/ci95_high": high}


def metric_name(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name)  # what MLflow allows


def texts_of(values: Mapping[str, Any]) -> dict[str, str]:
    render: Callable[[Any], str] = lambda value: value if isinstance(value, str) else json.dumps(value, default=str)  # noqa: E731
    return {metric_name(name): render(value) for name, value in values.items()}


def yaml_of(data: Any) -> str:
    return yaml.safe_dump(json.loads(json.dumps(data, default=str)), sort_keys=False, allow_unicode=True)


def reason_of(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
