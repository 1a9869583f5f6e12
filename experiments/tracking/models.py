"""Models in MLflow's registry: by which URI one is found, and the ONNX file and metadata behind it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from experiments.store.relocation import follow_folder
from experiments.store.state import StateDir
from experiments.tracking.values import FAILURES, pointed_at, reason_of
from sim_core.errors import ModelError, nearest

MODEL_NAME = "policy"
CHALLENGER, CHAMPION = "challenger", "champion"

_REGISTERED = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")
_LOGGED = re.compile(r"^models:/(?P<model_id>m-[0-9a-f]{32})$")
_OF_RUN = re.compile(r"^runs:/(?P<run_id>[0-9a-f]{32})(?:/(?P<name>.+))?$")


def registered_name(profile: str) -> str:
    """Name in the model registry of a profile's autoscaler."""
    return f"autoscaler-{profile}"


@dataclass(frozen=True)
class ResolvedModel:
    """A model on this machine: the ONNX file, the metadata it was logged with, and where it came from."""

    uri: str
    path: Path
    metadata: dict[str, Any]
    run_id: str | None
    version: str | None


def resolve_model(uri: str, state: StateDir) -> ResolvedModel:
    """The ONNX file behind a model URI that a user named. Only ONNX is accepted, which holds no code.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `models:/m-ID` or `runs:/RUN_ID[/policy]`.
        state: its MLflow, or MLFLOW_TRACKING_URI when that is set.

    Raises:
        ModelError: malformed URI, no such model, alias, version or run (with the known and the nearest), a model of
            another flavor, or MLflow cannot be read.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    tracking = given or state.mlflow_uri
    if not given and not state.mlflow_database.exists():
        remedy = "train one first, or name another folder with --state"
        raise ModelError(uri, f"no model is registered in state folder {state.root}; {remedy}")
    try:
        if not given:
            follow_folder(state)
        return _resolve(uri, MlflowClient(tracking, tracking), tracking)
    except FAILURES as error:
        raise ModelError(uri, f"MLflow at {tracking} cannot be read: {reason_of(error)}") from error


def _resolve(uri: str, client: MlflowClient, tracking: str) -> ResolvedModel:
    from mlflow.artifacts import download_artifacts

    if registered := _REGISTERED.match(uri):
        found = _registered_version(uri, registered["name"], registered["alias"], registered["version"], client)
        source, run_id, version = str(found.source), found.run_id, str(found.version)
    elif logged := _LOGGED.match(uri):
        run_id, version = client.get_logged_model(logged["model_id"]).source_run_id, None
        source = uri
    elif of_run := _OF_RUN.match(uri):
        run_id, version = of_run["run_id"], None
        source = _model_of_run(uri, run_id, of_run["name"] or MODEL_NAME, client)
    else:
        raise ModelError(uri, "must be models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID")
    with pointed_at(tracking):  # a models:/ source is looked up there, whatever address is passed along
        folder = Path(download_artifacts(artifact_uri=source, tracking_uri=tracking, registry_uri=tracking))
    description = yaml.safe_load((folder / "MLmodel").read_text())
    flavors = description.get("flavors", {})
    if "onnx" not in flavors:
        raise ModelError(uri, f"must be a model of flavor onnx, this one has {', '.join(flavors) or 'none'}")
    file = (folder / flavors["onnx"]["data"]).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ModelError(uri, f"its MLmodel names a file outside of the model: {flavors['onnx']['data']}")
    metadata = (description.get("metadata") or {}).get("devops_sim") or {}
    return ResolvedModel(uri, file, metadata, run_id, version)


def _registered_version(uri: str, name: str, alias: str | None, version: str | None, client: MlflowClient) -> Any:
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        known = f"registered: {', '.join(sorted(models))}" if models else "none is registered yet: train one first"
        raise ModelError(uri, f"no registered model '{name}' ({known}){nearest(name, models)}")
    aliases = models[name].aliases
    if alias is not None:
        if alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            raise ModelError(
                uri,
                _nothing_promoted(name, aliases, client)
                if alias == CHAMPION
                else f"'{name}' has no alias '{alias}' (it has: {known}){nearest(alias, aliases)}",
            )
        version = str(aliases[alias])
    versions = {str(found.version): found for found in client.search_model_versions(f"name='{name}'")}
    if version not in versions:
        known = ", ".join(sorted(versions, key=int)) or "none"
        raise ModelError(uri, f"'{name}' has no version {version} (it has: {known})")
    return versions[version]


def _nothing_promoted(name: str, aliases: Mapping[str, Any], client: MlflowClient) -> str:
    """That a profile has no champion yet, why the newest model is none, and what to use meanwhile."""
    text = f"no model of '{name}' has been promoted yet: a champion must have won a comparison on held-out traffic"
    if CHALLENGER not in aliases:
        return text
    version = str(aliases[CHALLENGER])
    reason = client.get_model_version(name, version).tags.get("gate_reason")
    return f"{text}; the newest, models:/{name}@{CHALLENGER}, is version {version}" + (
        f", which did not: {reason}" if reason else ""
    )


def _model_of_run(uri: str, run_id: str, name: str, client: MlflowClient) -> str:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise ModelError(uri, f"no run of id {run_id}") from None
        raise
    outputs = run.outputs.model_outputs if run.outputs else []
    models = {model.name: model for model in (client.get_logged_model(output.model_id) for output in outputs)}
    if name not in models:
        known = ", ".join(models) or "none"
        raise ModelError(uri, f"the run has no model '{name}' (it has: {known}){nearest(name, models)}")
    return f"models:/{models[name].model_id}"


def signature_of(model: Any) -> Any:
    """Signature of an ONNX graph: named tensors, -1 for axes of any length."""
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(values: Any) -> Schema:
        specs = []
        for value in values:
            tensor = value.type.tensor_type
            shape = tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)
            specs.append(TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape, value.name))
        return Schema(specs)

    return ModelSignature(schema(model.graph.input), schema(model.graph.output))


def fixed_requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in ("onnx", "onnxruntime", "numpy")]
