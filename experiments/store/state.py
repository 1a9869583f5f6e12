"""The state folder: where results, runs, models, checkpoints and server databases of one project live."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from sim_core.errors import InputError

HOME_VARIABLE = "DEVOPS_SIM_HOME"
DEFAULT_FOLDER = ".devops-sim"
FOLDERS = ("artifacts", "results", "prefect", "ray", "reports", "checkpoints")


@dataclass(frozen=True)
class StateDir:
    """Paths inside one state folder; `open` creates and checks it, `existing` does neither and writes nothing.

    Nothing in it depends on where it lies: it can be moved, or copied while nothing works in it.

    Only the owner can read it (mode 700): it holds the token of the Ray cluster.
    """

    root: Path

    @classmethod
    def at(cls, path: str | Path | None = None) -> StateDir:
        """The state folder at `path`, else at $DEVOPS_SIM_HOME, else ./.devops-sim, whether it exists or not."""
        return cls(Path(path or os.environ.get(HOME_VARIABLE) or DEFAULT_FOLDER).expanduser().absolute())

    @classmethod
    def existing(cls, path: str | Path | None = None) -> StateDir:
        """The same state folder, for those who only read: it is not created.

        Raises:
            InputError: there is no such folder; says where it was looked for.
        """
        state = cls.at(path)
        if not state.root.is_dir():
            raise InputError(
                f"state folder {state.root}",
                f"does not exist; name one with --state or the environment variable {HOME_VARIABLE}, or begin with "
                "`devops-sim sweep`, which makes it",
            )
        return state

    @classmethod
    def open(cls, path: str | Path | None = None) -> StateDir:
        """The state folder `at(path)`, created when absent.

        Raises:
            InputError: the path is a file, or it cannot be created or written. Nothing is left half-made.
        """
        state = cls.at(path)
        root = state.root
        _check_writable(root)
        created: list[Path] = []
        try:
            for folder in _missing_parents(root) + [root / name for name in FOLDERS]:
                if not folder.exists():
                    folder.mkdir(mode=0o700)
                    created.append(folder)
        except OSError as error:
            for folder in reversed(created):
                folder.rmdir()
            raise _refused(root, f"cannot be created ({error.strerror})") from error
        return state

    @property
    def mlflow_database(self) -> Path:
        """Database of MLflow: one SQLite file."""
        return self.root / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        """Tracking URI of MLflow: that file."""
        return f"sqlite:///{self.mlflow_database}"

    @property
    def artifacts(self) -> Path:
        """Artifact root of MLflow; always passed explicitly, since MLflow's default is the current directory."""
        return self.root / "artifacts"

    @property
    def results(self) -> Path:
        """Parquet results, the source of truth."""
        return self.root / "results"

    @property
    def prefect(self) -> Path:
        """PREFECT_HOME of the flows."""
        return self.root / "prefect"

    @property
    def reports(self) -> Path:
        """HTML reports."""
        return self.root / "reports"

    @property
    def checkpoints(self) -> Path:
        """Training checkpoints, one folder a training key."""
        return self.root / "checkpoints"

    @property
    def ray_token(self) -> Path:
        """Token file of the Ray cluster (mode 600), made on first use and kept: concurrent clusters share it."""
        path = self.root / "ray" / "token"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            path.chmod(0o600)
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        return path


def _missing_parents(root: Path) -> list[Path]:
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    return missing[::-1]


def _check_writable(root: Path) -> None:
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir():
        raise _refused(root, f"'{existing}' is a file, a folder is needed")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise _refused(root, f"no permission to write in '{existing}'")


def _refused(root: Path, problem: str) -> InputError:
    return InputError(
        f"state folder {root}",
        f"{problem}; name a writable folder with --state or the environment variable {HOME_VARIABLE}",
    )
