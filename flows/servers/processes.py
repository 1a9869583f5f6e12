"""Prefect and MLflow servers on loopback: used where they run already, else started as children and ended with us."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sim_core.errors import InputError, PlatformError

HOST = "127.0.0.1"
_SERVER_FILE = "server.json"  # url, pid and state folder of the Prefect server that `devops-sim ui` runs
_LOG_TAIL_LINES = 12
_PR_SET_PDEATHSIG = 1  # prctl(2)


def platform_environment(home: Path) -> dict[str, str]:
    """Settings that keep Prefect's files below `home` and every telemetry off; what the user has set wins.

    Args:
        home: the state directory.

    Returns:
        Variable name -> value, only those that the environment does not hold yet.
    """
    settings = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return {name: value for name, value in settings.items() if name not in os.environ}


def free_port() -> int:
    """A loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_port_is_free(option: str, port: int) -> None:
    """Refuse a port that cannot be listened on.

    Args:
        option: the command-line option that chose the port, for the message.
        port: TCP port on loopback.

    Raises:
        InputError: the port is in use, or may not be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            remedy = f"end what listens there, or choose another with {option}"
            raise InputError(
                f"{option} {port}", f"cannot listen on {HOST}:{port} ({error.strerror}); {remedy}"
            ) from None


@dataclass(frozen=True)
class Server:
    """A server process that this process started."""

    name: str
    url: str
    health_url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_ready(self, timeout_s: float = 600.0) -> None:
        """Return when the server answers; a server that has ended is noticed at once, so a busy machine gets its time.

        Raises:
            PlatformError: it ended, or did not answer in time; the message holds the end of its log.
        """
        give_up_s = time.monotonic() + timeout_s
        while not answers(self.health_url):
            if self.process.poll() is not None:
                raise PlatformError(self.obituary())
            if time.monotonic() > give_up_s:
                raise PlatformError(
                    f"{self.name} did not answer on {self.url} within {timeout_s:.0f} s{self._log_tail()}"
                )
            time.sleep(0.1)

    def stop(self, patience_s: float = 10.0) -> None:
        """End the server and the processes it started, politely first, then for good; its log goes with it."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_s)
        self.process.wait()
        self.log.unlink(missing_ok=True)

    def obituary(self) -> str:
        """How a server that is no more ended, with the end of its log."""
        return f"{self.name} ended with exit code {self.process.poll()}{self._log_tail()}"

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "; its log ends with:\n  " + "\n  ".join(lines)


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a GET of `url` is answered with a success."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return bool(200 <= response.status < 300)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def start_prefect(home: Path, port: int | None = None) -> Server:
    """Start a Prefect server with its database below `home`; it does not answer yet.

    Args:
        home: the state directory.
        port: TCP port on loopback; None takes a free one.
    """
    port = port or free_port()
    # The variable, not --port: the pages take the API's address from the setting.
    settings = {
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    url = f"http://{HOST}:{port}"
    return _start("Prefect server", command, url, f"{url}/api/health", home, settings)


def start_mlflow(home: Path, tracking_uri: str, artifacts: Path, port: int | None = None) -> Server:
    """Start an MLflow server on the tracking database; it does not answer yet.

    Args:
        home: the state directory.
        tracking_uri: SQLAlchemy address of the database.
        artifacts: folder of the artifacts.
        port: TCP port on loopback; None takes a free one.
    """
    port = port or free_port()
    # One worker: with several, uvicorn answers each request 40 ms later. No job runners: they hold 1.4 GiB.
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", tracking_uri, "--artifacts-destination", artifacts.as_uri()]
    url = f"http://{HOST}:{port}"
    return _start("MLflow server", command, url, f"{url}/health", home, settings)


def _start(name: str, command: list[str], url: str, health_url: str, home: Path, settings: Mapping[str, str]) -> Server:
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name.split()[0].lower()}-{url.rpartition(':')[2]}.log"
    environment = {**os.environ, **platform_environment(home), **settings}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # Ctrl-C at the terminal reaches us alone: the server ends after the last record
            preexec_fn=_end_with_parent,
        )
    return Server(name, url, health_url, process, log)


def _end_with_parent() -> None:
    """Runs in the new process: have Linux end it should we be killed without a chance to do so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def running_prefect(home: Path) -> str | None:
    """Address of the API of a Prefect server that runs already: `PREFECT_API_URL`, else that of `devops-sim ui`.

    Raises:
        PlatformError: `PREFECT_API_URL` is set and nothing answers there.
    """
    api = os.environ.get("PREFECT_API_URL")
    if api:
        if not answers(f"{api}/health", timeout_s=10.0):
            raise PlatformError(f"PREFECT_API_URL={api}: no Prefect server answers; start it, or unset the variable")
        return api
    try:
        noted = json.loads((home / "prefect" / _SERVER_FILE).read_text())
        if noted["home"] != str(home):  # this folder is a copy: that server works on the original
            return None
        url = f"{noted['url']}/api"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if answers(f"{url}/health") else None


@contextlib.contextmanager
def announced(home: Path, server: Server) -> Iterator[None]:
    """Let other commands on this state directory find the Prefect server for as long as the block lasts."""
    file = home / "prefect" / _SERVER_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"url": server.url, "pid": server.process.pid, "home": str(home)}))
    draft.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def prefect_api(home: Path) -> Iterator[Server | None]:
    """A Prefect API for the flows of this process, ended with the block if it had to be started.

    Sets `PREFECT_API_URL`, so enter it before `prefect` is imported. Gives the started server, which may not answer yet
    (call `wait_until_ready`; start other things meanwhile), or None where one runs already.
    """
    os.environ.update(platform_environment(home))
    known = running_prefect(home)
    if known:
        os.environ["PREFECT_API_URL"] = known
        yield None
        return
    server = start_prefect(home)
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    try:
        yield server
    finally:
        server.stop()
        os.environ.pop("PREFECT_API_URL", None)
