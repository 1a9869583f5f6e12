"""MLflow: runs, learning curves and models, for people to look at. The Parquet store stays the source of truth.

A parent run is a sweep, a child run a configuration aggregated over its seeds. Everything is written by the driver, in
three calls a run. When MLflow is locked, down or its disk is full, a warning says what to do, the job goes on, and the
next run of the same job writes what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Metric, Param, ViewType
from mlflow.exceptions import MlflowException

from experiments.analysis.comparison import best, compare, indicators_of, scenario_words, worst
from experiments.analysis.naming import short_names
from experiments.analysis.ties import NO_SCENARIO, cells
from experiments.planning.plan import Plan
from experiments.store.identity import simulator_version
from experiments.store.links import address_of, run_page, runs_page, sweep_view
from experiments.store.relocation import FOLDER_TAG, follow_folder
from experiments.store.state import StateDir
from experiments.tracking.models import MODEL_NAME, fixed_requirements, registered_name, signature_of
from experiments.tracking.values import FAILURES, metrics_of, pointed_at, reason_of, texts_of, with_interval, yaml_of

log = logging.getLogger("devops_sim.tracking")
# Their first lines are table creation and migration, and stack traces of errors that we report ourselves.
for _name, _level in (("alembic", logging.WARNING), ("mlflow.store", logging.CRITICAL)):
    logging.getLogger(_name).setLevel(_level)

METRICS_PER_CALL = 1000  # MLflow's limit of log_batch
PARAM_CHARACTERS = 6000  # and of one parameter
PARENT = "mlflow.parentRunId"
KIND_TAG, MACHINE_LEARNING = (
    "mlflow.experimentKind",
    "custom_model_development",
)  # else its page is that of GenAI traces
VERSIONS_TAG = "mlflow.modelVersions"
NOTE_TAG = "mlflow.note.content"  # description, in Markdown
CURVE_STEP = "curve/last_step"


def child_key(configuration_key: str, scenario: str) -> str:
    """What tells the child runs of a parent apart: the configuration and, if there is one, the scenario (JSON)."""
    return configuration_key if scenario == NO_SCENARIO else f"{configuration_key} {scenario}"


P = ParamSpec("P")
R = TypeVar("R")
First = TypeVar("First")


def _names_of(plan: Plan) -> dict[str, str]:
    """Short name of each configuration of a sweep, by its key."""
    settings = {p.configuration_key: (p.policy, {**dict(p.settings), **dict(p.overrides)}) for p in plan.points}
    return dict(zip(settings, short_names(list(settings.values())), strict=True))


def _with_intervals(row: Mapping[Any, Any], names: Sequence[str]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for name in names:
        metrics |= with_interval(name, row[name], row[f"{name}_ci95_low"], row[f"{name}_ci95_high"])
    return metrics


def _tolerant(
    method: Callable[Concatenate[MlflowTracker, First, P], R],
) -> Callable[Concatenate[MlflowTracker, First | None, P], R | None]:
    """Makes a failure of MLflow a warning, and every later call a no-op that returns None.

    So is a call whose first argument is None: the run or the model that could not be made.
    """

    @functools.wraps(method)
    def guarded(self: MlflowTracker, first: First | None, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        if self.warning is not None or first is None:
            return None
        try:
            return method(self, first, *args, **kwargs)
        except FAILURES as error:
            self.warning = (
                f"MLflow at {self.uri} failed in {method.__name__} ({reason_of(error)}). No result is lost: all are in "
                "the Parquet store. End what locks the database, make room or start the server, and run the same "
                "command again: it writes what is missing"
            )
            log.warning(self.warning)
            return None

    return guarded


class MlflowTracker:
    """Writes to one MLflow experiment, the profile's.

    Methods that write return None, after a warning, when MLflow fails; from then on this tracker does nothing
    (`warning` says why), since each attempt on a locked database takes 20 s. Run ids may be None everywhere.

    Args:
        uri: tracking URI, `sqlite:///...` or `http://...`.
        state: the folder of the database, where artifacts lie too; None leaves the choice to a server.
        experiment: name of the experiment.
    """

    def __init__(self, uri: str, state: StateDir | None, experiment: str):
        self.uri = uri
        self.warning: str | None = None
        self._state = state
        self._experiment = experiment
        self._experiment_id: str | None = None
        self._made: MlflowClient | None = None

    @classmethod
    def open(cls, state: StateDir, experiment: str) -> MlflowTracker:
        """The tracker of a state folder, or of MLFLOW_TRACKING_URI when that is set."""
        given = os.environ.get("MLFLOW_TRACKING_URI")
        return cls(given, None, experiment) if given else cls(state.mlflow_uri, state, experiment)

    # --- sweeps

    @_tolerant
    def log_sweep(self, plan: Plan, points: pd.DataFrame) -> str | None:
        """Writes what MLflow does not have of a sweep yet: call it while results come in, and at the end.

        A configuration is written once all its seeds are there. When all are, the parent gets the settings and the
        indicators of the best one, and its artifacts (points.parquet, spec.yaml, profile.yaml), and is finished; after
        that a call changes nothing.

        Args:
            plan: the sweep.
            points: its finished points, rows of the result store.

        Returns:
            Id of the parent run, or None when MLflow failed.
        """
        tags = {"kind": "sweep", "sweep_id": plan.sweep_id}
        parent, status = self._find_or_create(tags, plan.sweep_id, {"profile": plan.profile.name})
        self._client().set_experiment_tag(self.experiment_id(), *sweep_view(plan.sweep_id))
        if status == "FINISHED":
            return parent
        known = self._children(parent)
        planned = Counter((point.configuration_key, point.identity()["scenario"]) for point in plan.points)
        ready = cells(points) if len(points) else {}
        complete = [cell for cell, seeds in planned.items() if cell in ready and len(ready[cell]) == seeds]
        missing = [cell for cell in complete if known.get(child_key(*cell), ("", ""))[1] != "FINISHED"]
        if missing:
            names = indicators_of(points)
            called = _names_of(plan)
            for row in compare(pd.concat([ready[cell] for cell in missing])).to_dict("records"):
                cell = (str(row["configuration_key"]), str(row["scenario"]))
                run_id = known.get(child_key(*cell), (None, ""))[0]
                run_id = run_id or self._create_configuration(plan, parent, cell, called)
                self._log_configuration(run_id, row, names, plan.spec.engine)
        if len(complete) == len(planned):
            self._log_best(plan, parent, compare(points))
            self._log_frame(parent, "points", points)
            self._client().log_text(parent, yaml_of(plan.spec.to_dict()), "spec.yaml")
            self._client().log_text(parent, yaml_of(plan.profile.to_dict()), "profile.yaml")
            self._client().set_terminated(parent)
        return parent

    def _create_configuration(self, plan: Plan, parent: str, cell: tuple[str, str], called: Mapping[str, str]) -> str:
        key, scenario = cell
        tags = {"kind": "configuration", "sweep_id": plan.sweep_id, "configuration_key": key, PARENT: parent}
        tags |= {"scenario": scenario} if scenario != NO_SCENARIO else {}
        return self._create(tags, " · ".join(filter(None, (called[key], scenario_words(json.loads(scenario))))))

    def _log_configuration(self, run_id: str, row: Mapping[Any, Any], names: Sequence[str], engine: str) -> None:
        params = {"policy": row["policy"], "seeds": row["seeds"], "engine": engine}
        params |= json.loads(row["settings"]) | json.loads(row["parameters"]) | json.loads(row["scenario"])
        self._log_metrics(run_id, _with_intervals(row, names), params)
        self._client().set_terminated(run_id)

    def _log_best(self, plan: Plan, parent: str, table: pd.DataFrame) -> None:
        """What a sweep found, as its own parameters, metrics and description: pages show these without a click."""
        chosen = best(table, plan.spec.objective.minimize, plan.spec.limits(plan.profile))
        decisions = worst(table).set_index("configuration_key")
        row = decisions.loc[chosen.configuration_key].to_dict()
        name, scenarios = _names_of(plan)[chosen.configuration_key], int(table["scenario"].nunique())
        params = {"best": name, "policy": row["policy"], **json.loads(row["settings"]), **json.loads(row["parameters"])}
        params |= {"configurations": len(decisions), "points": len(plan.points), "seeds": plan.spec.seeds.count}
        params |= {"traffic": plan.trace.name, "engine": plan.spec.engine}
        params |= {"scenarios": scenarios} if scenarios > 1 else {}
        names = [indicator for indicator in indicators_of(table) if f"{indicator}_ci95_low" in row]
        self._log_metrics(parent, _with_intervals(row, names), params)
        text = f"Best of {len(decisions)} configurations: **{name}** ({chosen.label}), {chosen.reason}."
        shown = "Parameters and metrics are those of the best configuration"
        shown += ", each metric in the scenario where it is worst." if scenarios > 1 else "."
        self._client().set_tag(parent, NOTE_TAG, f"{text}\n\n{shown}")

    # --- training and evaluation

    @_tolerant
    def start(self, kind: str, key: str, name: str, params: Mapping[str, Any], parent: str | None = None) -> str | None:
        """The run of a job: the one that an earlier, interrupted attempt began, or a new one.

        Args:
            kind: `training`, `evaluation`, ...; a tag.
            key: identifies the job among those of its kind, such as a digest of its request; a tag.
            name: of a new run.
            params: of the run; logged once.
            parent: id of a parent run.
        """
        extra = {PARENT: parent} if parent else {}
        run_id, status = self._find_or_create({"kind": kind, "job_key": key}, name, extra)
        if status != "FINISHED":
            self._log_metrics(run_id, {}, params)
        return run_id

    @_tolerant
    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Metrics of a run; values that are not finite are left out."""
        self._log_metrics(run_id, metrics)

    @_tolerant
    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Progress rows of a training as metrics over steps, in as few calls as possible.

        Rows up to the last step that the run already has are skipped: after an interruption, pass all rows again.

        Args:
            run_id: of the training.
            rows: each with an increasing `step`, and numbers by metric name.
        """
        last = self._client().get_run(run_id).data.metrics.get(CURVE_STEP, -math.inf)
        batch: list[Metric] = []
        for row in rows:
            if row["step"] <= last:
                continue
            values = {name: value for name, value in row.items() if name != "step"} | {CURVE_STEP: row["step"]}
            metrics = metrics_of(values, step=int(row["step"]))
            if len(batch) + len(metrics) > METRICS_PER_CALL:
                self._client().log_batch(run_id, metrics=batch)
                batch = []
            batch += metrics
        if batch:
            self._client().log_batch(run_id, metrics=batch)

    @_tolerant
    def log_table(self, run_id: str, name: str, frame: pd.DataFrame) -> None:
        """A table as the artifact NAME.parquet."""
        self._log_frame(run_id, name, frame)

    @_tolerant
    def log_text(self, run_id: str, name: str, text: str) -> None:
        """Text as the artifact NAME."""
        self._client().log_text(run_id, text, name)

    @_tolerant
    def log_file(self, run_id: str, path: Path) -> None:
        """A file as an artifact of the same name."""
        self._client().log_artifact(run_id, str(path))

    @_tolerant
    def log_evaluation(
        self,
        key: str,
        name: str,
        table: pd.DataFrame,
        lanes: pd.DataFrame,
        gap_closed: Mapping[str, Mapping[str, Any]],
        params: Mapping[str, Any],
    ) -> str | None:
        """An evaluation as a parent run and a child run a policy; does nothing when it is there already.

        Args:
            key: identifies the evaluation.
            name: of the parent run.
            table: one row a policy: `policy`, and for each indicator X the columns X, X_ci95_low, X_ci95_high.
            lanes: one row a policy and seed; the artifact lanes.parquet.
            gap_closed: of each policy that has one: `mean`, and `ci95` (low, high).
            params: of the parent run.

        Returns:
            Id of the parent run, or None when MLflow failed.
        """
        parent, status = self._find_or_create({"kind": "evaluation", "job_key": key}, name, {})
        if status == "FINISHED":
            return parent
        metrics: dict[str, Any] = {}
        for policy, gap in gap_closed.items():
            metrics |= with_interval(f"gap_closed/{policy}", gap["mean"], *gap["ci95"])
        known = self._children(parent)
        for row in table.to_dict("records"):
            self._log_policy(key, parent, {str(column): value for column, value in row.items()}, known)
        self._log_frame(parent, "lanes", lanes)
        self._log_frame(parent, "policies", table)
        self._log_metrics(parent, metrics, params)
        self._client().set_terminated(parent)
        return parent

    def _log_policy(self, key: str, parent: str, row: Mapping[str, Any], known: Mapping[str, tuple[str, str]]) -> None:
        policy = str(row["policy"])
        run_id, status = known.get(policy, (None, ""))
        if status == "FINISHED":
            return
        tags = {"kind": "policy", "job_key": key, "configuration_key": policy, PARENT: parent}
        run_id = run_id or self._create(tags, policy)
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        metrics = {re.sub(r"_(ci95_(low|high))$", r"/\1", name): value for name, value in numbers.items()}
        self._log_metrics(run_id, metrics, {"policy": policy})
        self._client().set_terminated(run_id)

    @_tolerant
    def log_play(self, key: str, params: Mapping[str, Any], played: Mapping[str, Any], profile: Mapping[str, Any],
                 files: Sequence[Path] = ()) -> str | None:  # fmt: skip
        """What `devops-sim run` played under one policy; the same play is written once.

        Args:
            key: identifies the play.
            params: of the run.
            played: `policy`, its `settings`, `indicators`, `services` and `classes` (each figure as `mean` and `ci95`;
                one class alone is the whole, and left out), and `lanes` (one row a seed), which becomes the artifact
                lanes.parquet.
            profile: plain data, the artifact profile.yaml.
            files: further artifacts.

        Returns:
            Id of the run, or None when MLflow failed.
        """
        (name,) = short_names([(played["policy"], played["settings"])])
        run_id, status = self._find_or_create({"kind": "run", "job_key": key}, name, {})
        if status != "FINISHED":
            figures = dict(played["indicators"])
            for service, entries in played["services"].items():
                figures |= {f"services/{service}/{indicator}": entry for indicator, entry in entries.items()}
            for name, entries in played["classes"].items() if len(played["classes"]) > 1 else ():
                figures |= {f"classes/{name}/{indicator}": entry for indicator, entry in entries.items()}
            metrics: dict[str, Any] = {}
            for indicator, entry in figures.items():
                metrics |= with_interval(indicator, entry["mean"], *entry["ci95"])
            self._log_metrics(run_id, metrics, params)
            self._log_frame(run_id, "lanes", pd.DataFrame(played["lanes"]))
            self._client().log_text(run_id, yaml_of(profile), "profile.yaml")
            self._client().set_terminated(run_id)
        for path in files:
            self._client().log_artifact(run_id, str(path))
        return run_id

    @_tolerant
    def page(self, run_id: str) -> str:
        """Address of a run's page: at a tracking server, else at `devops-sim ui`."""
        return run_page(address_of(self.uri), self.experiment_id(), run_id)

    @_tolerant
    def sweep_page(self, sweep_id: str) -> str:
        """Address of the table of a sweep's configurations."""
        return runs_page(address_of(self.uri), self.experiment_id(), sweep_id)

    @_tolerant
    def finish(self, run_id: str, failed: bool = False) -> None:
        """Ends a run as FINISHED, or as FAILED."""
        self._client().set_terminated(run_id, "FAILED" if failed else "FINISHED")

    # --- models

    @_tolerant
    def log_model(self, run_id: str, policy: bytes | Path, metadata: Mapping[str, Any]) -> str | None:
        """Logs a policy network as an MLflow model of flavor onnx, with fixed requirements.

        Args:
            run_id: the training run.
            policy: an ONNX model without external data, or a file with one; the signature is that of its graph.
            metadata: plain data kept in the model: profile, spec, seeds, version, what the policy needs to be applied.
                Each entry is also an artifact of the run, `NAME.yaml`.

        Returns:
            URI of the model, `models:/m-...`, or None when MLflow failed.
        """
        import mlflow.onnx
        import onnx

        model = onnx.load_from_string(policy if isinstance(policy, bytes) else policy.read_bytes())
        ended = self._client().get_run(run_id).info.status
        with pointed_at(self.uri), mlflow.start_run(run_id=run_id):
            info = mlflow.onnx.log_model(
                model,
                name=MODEL_NAME,
                signature=signature_of(model),
                metadata={"devops_sim": dict(metadata)},
                pip_requirements=fixed_requirements(),
                onnx_execution_providers=["CPUExecutionProvider"],
                save_as_external_data=False,  # the default moves the weights out of the model in memory
            )
        if ended == "RUNNING":
            self._client().update_run(run_id, "RUNNING")
        for name, value in metadata.items():
            self._client().log_text(run_id, yaml_of(value), f"{name}.yaml")
        return str(info.model_uri)

    @_tolerant
    def model_of(self, run_id: str) -> str | None:
        """URI of the model that a run has logged in full, `models:/m-...`; None where there is none."""
        query = f"source_run_id = '{run_id}' AND name = '{MODEL_NAME}'"
        found = self._client().search_logged_models([self.experiment_id()], query)
        whole = [model for model in found if model.status == LoggedModelStatus.READY]
        return str(whole[0].model_uri) if whole else None

    @_tolerant
    def register(self, model_uri: str, profile: str, alias: str, tags: Mapping[str, Any] | None = None) -> str | None:
        """Makes a logged model a version of `autoscaler-<profile>` and points the alias at it.

        A model that is registered already keeps its version.

        Args:
            model_uri: of `log_model`.
            profile: name of the profile.
            alias: `challenger` or `champion`.
            tags: of the version.

        Returns:
            The version, or None when MLflow failed.
        """
        name, client, model_id = registered_name(profile), self._client(), model_uri.removeprefix("models:/")
        with contextlib.suppress(MlflowException):
            client.create_registered_model(name)
        versions = [v for v in client.search_model_versions(f"name='{name}'") if v.source == model_uri]
        if versions:
            version = str(versions[0].version)
            for key, value in texts_of(tags or {}).items():  # a later evaluation may have decided otherwise
                client.set_model_version_tag(name, version, key, value)
        else:
            run_id = client.get_logged_model(model_id).source_run_id
            with pointed_at(self.uri):  # it looks a models:/ source up there
                made = client.create_model_version(
                    name, model_uri, run_id, tags=texts_of(tags or {}), model_id=model_id
                )
            version = str(made.version)
        versions_tag = json.dumps([{"name": name, "version": version}])
        client.set_logged_model_tags(model_id, {VERSIONS_TAG: versions_tag})  # else its page says "not registered"
        client.set_registered_model_alias(name, alias, version)
        return version

    @_tolerant
    def describe_version(
        self, version: str, profile: str, text: str, tags: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Fills the page of a registered version, and of the model behind it.

        Args:
            version: of `autoscaler-<profile>`.
            text: its description, in Markdown.
            tags: of the version.
            metrics: of the model; values that are not finite are left out.
        """
        name, client = registered_name(profile), self._client()
        client.update_model_version(name, version, text)
        for tag, value in texts_of(tags).items():
            client.set_model_version_tag(name, version, tag, value)
        found = client.get_model_version(name, version)
        model_id = str(found.source).removeprefix("models:/")
        known = {metric.key: metric.value for metric in client.get_logged_model(model_id).metrics or ()}
        fresh = [metric for metric in metrics_of(metrics) if known.get(metric.key) != metric.value]
        entries = [Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id) for m in fresh]
        client.log_batch(found.run_id, metrics=entries)

    def has_finished(self, run_id: str | None) -> bool:
        """Whether a run is there and has ended well."""
        with contextlib.suppress(*FAILURES):
            return run_id is not None and self._client().get_run(run_id).info.status == "FINISHED"
        return False

    def alias_version(self, profile: str, alias: str) -> str | None:
        """Version of `autoscaler-<profile>` that an alias points at, or None."""
        with contextlib.suppress(*FAILURES):
            return str(self._client().get_model_version_by_alias(registered_name(profile), alias).version)
        return None

    # --- the parts

    def _client(self) -> MlflowClient:
        if self._made is None:
            if self._state is not None:
                follow_folder(self._state)
            self._made = MlflowClient(self.uri, self.uri)
        return self._made

    def experiment_id(self) -> str:
        """Id of the experiment, created on first use with its artifact root."""
        if self._experiment_id is None:
            client = self._client()
            found = client.get_experiment_by_name(self._experiment)
            if found is None:
                location = (self._state.artifacts / self._experiment).as_uri() if self._state else None
                tags = self._experiment_tags(location)
                self._experiment_id = str(client.create_experiment(self._experiment, location, tags))
            else:
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(found.experiment_id)
                for name, value in self._experiment_tags(found.artifact_location).items():
                    if name not in found.tags:
                        client.set_experiment_tag(found.experiment_id, name, value)
                self._experiment_id = str(found.experiment_id)
        return self._experiment_id

    def _experiment_tags(self, location: str | None) -> dict[str, str]:
        here = self._state.root.as_uri() if self._state else None
        inside = here is not None and (location or "").startswith(f"{here}/")
        return {KIND_TAG: MACHINE_LEARNING} | ({FOLDER_TAG: here} if here and inside else {})

    def _find_or_create(self, tags: Mapping[str, str], name: str, extra: Mapping[str, str]) -> tuple[str, str]:
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        found = self._client().search_runs([self.experiment_id()], query, ViewType.ACTIVE_ONLY, max_results=1)
        if found:
            return found[0].info.run_id, found[0].info.status
        return self._create({**tags, **extra}, name), "RUNNING"

    def _create(self, tags: Mapping[str, str], name: str) -> str:
        common = {"version": simulator_version(), "mlflow.source.name": "devops-sim", "mlflow.source.type": "LOCAL"}
        run = self._client().create_run(self.experiment_id(), tags={**tags, **common}, run_name=name)
        return str(run.info.run_id)

    def _children(self, parent: str) -> dict[str, tuple[str, str]]:
        """Id and status of each child run, by `child_key`."""
        children: dict[str, tuple[str, str]] = {}
        token = None
        while True:
            query = f"tags.`{PARENT}` = '{parent}'"
            page = self._client().search_runs([self.experiment_id()], query, max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                key = child_key(tags.get("configuration_key", ""), tags.get("scenario", NO_SCENARIO))
                children[key] = (run.info.run_id, run.info.status)
            token = page.token
            if not token:
                return children

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float], params: Mapping[str, Any] | None = None) -> None:
        entries = [Param(name, value[:PARAM_CHARACTERS]) for name, value in texts_of(params or {}).items()]
        self._client().log_batch(run_id, metrics=metrics_of(metrics), params=entries)

    def _log_frame(self, run_id: str, name: str, frame: pd.DataFrame) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.parquet"
            frame.to_parquet(path, index=False)
            self._client().log_artifact(run_id, str(path))
