"""MLflow, for people to look at: runs and learning curves (`runs`), models and their registry (`models`).

Nothing depends on it: the Parquet store stays the source of truth.
"""

import os

# MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from experiments.tracking.models import CHALLENGER, CHAMPION, MODEL_NAME, ResolvedModel, registered_name, resolve_model
from experiments.tracking.runs import MlflowTracker
from experiments.tracking.values import FAILURES

__all__ = [
    "MlflowTracker",
    "ResolvedModel",
    "resolve_model",
    "registered_name",
    "CHALLENGER",
    "CHAMPION",
    "FAILURES",
    "MODEL_NAME",
]
