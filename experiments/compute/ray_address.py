"""Where RAY_ADDRESS points, found out before Ray is imported, and asked before Ray itself would wait for minutes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from sim_core.errors import InputError, PlatformError

ADDRESS, AUTH_MODE, LOOPBACK_ONLY = "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_TRANSLATED = ("localhost", "127.0.0.1", "::1")  # Ray puts the machine's address in their place
_ANSWER_S = 5.0  # the longest that a cluster may take for one answer; two are asked for at most
_METADATA = (b"cluster", b"CLUSTER_METADATA")  # versions, as Ray notes them: ray/_common/usage/usage_lib.py
_FORMS = "give HOST:PORT of a cluster (`ray start --head` prints it; the usual port is 6379), auto, or local"


def named_address() -> str | None:
    """What RAY_ADDRESS names; None where a cluster of our own is wanted, which Ray calls `local`."""
    address = os.environ.get(ADDRESS, "").strip()
    return None if address in ("", "local") else address


def prepare_environment() -> None:
    """Sets what Ray reads from the environment when it is imported; call it before that.

    A cluster of our own asks for a token and keeps every socket on loopback; despite its name the second variable does so
    on Linux too. Beside a cluster that runs already it decides whether 127.0.0.1 stays that or becomes the machine's
    address: the right choice is the one at which the head listens. What the user has set for such a cluster stays.
    """
    address = named_address()
    if address is None:
        os.environ[AUTH_MODE] = "token"
        os.environ[LOOPBACK_ONLY] = "0"
    elif LOOPBACK_ONLY not in os.environ:
        with contextlib.suppress(InputError, PlatformError):  # `reach` reports it
            host, port = host_and_port(address)
            if host in _TRANSLATED and _listens(host, port) and not _listens(_machine_address(), port):
                os.environ[LOOPBACK_ONLY] = "0"


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of a cluster's head; `auto` is the one that was started last on this machine with `ray start`.

    Raises:
        InputError: the address has another form.
        PlatformError: it is `auto`, and no cluster was started here.
    """
    where = f"{ADDRESS}={address}"
    if address == "auto":
        address = _last_started()
    if address.startswith("ray://"):
        raise InputError(where, f"Ray Client is not supported: a driver joins the cluster itself; {_FORMS}")
    if "://" in address:
        raise InputError(where, f"is an address of the dashboard, for `ray job submit`, not of the cluster; {_FORMS}")
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(where, f"is no address of a cluster; {_FORMS}")
    return host, int(port)


def reach(address: str) -> str:
    """Asks the head of a cluster whether Ray can work with it; gives its `host:port`, and switches to its kind of token.

    Raises:
        InputError: the address has no form that is supported.
        PlatformError: address, token or version is wrong; the message says which. Within 15 s.
    """
    host, port = host_and_port(address)
    joined = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    where = f"{ADDRESS}={address}" if address != "auto" else f"{ADDRESS}=auto ({joined})"
    metadata = _ask(host, port, joined, where, token=None)
    if metadata is None:
        metadata = _ask(host, port, joined, where, token=_own_token(where))
        if metadata is None:
            raise PlatformError(
                f"{where}: wrong token: the cluster does not accept the one of {_token_source()}; give the cluster's own"
            )
        use_token()
    _compare_versions(metadata, where)
    return joined


def _ask(host: str, port: int, joined: str, where: str, token: str | None) -> dict[str, Any] | None:
    """The versions of a cluster, perhaps none yet; None where it does not accept the token.

    Raises:
        PlatformError: nothing answers, or not as Ray.
    """
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    namespace, key = _METADATA
    request = gcs_service_pb2.InternalKVGetRequest(namespace=namespace, key=key)
    header = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(joined, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)
            reply = stub.InternalKVGet(request, timeout=_ANSWER_S, metadata=header)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return None
            late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            why = f"no answer within {_ANSWER_S:g} s" if late else _why_not(host, port)
            raise PlatformError(f"{where}: wrong address: {why}; {_FORMS}") from error
    return dict(json.loads(reply.value)) if reply.value else {}


def _why_not(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=_ANSWER_S).close()
    except OSError as error:
        return f"no Ray cluster answers, {_reason(error)}"
    return "what listens there is not the head of a Ray cluster (the dashboard has a port of its own)"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def _own_token(where: str) -> str:
    """The user's token, from where Ray looks for it.

    Raises:
        PlatformError: there is none, or tokens are switched off.
    """
    import ray

    if os.environ.get(AUTH_MODE, "token").lower() != "token":
        raise PlatformError(
            f"{where}: the cluster asks for a token, and {AUTH_MODE}={os.environ[AUTH_MODE]}; unset {AUTH_MODE}"
        )
    loader = ray._raylet.AuthenticationTokenLoader.instance()
    try:
        token = loader.get_raw_token(ignore_auth_mode=True)
    except ray.exceptions.AuthenticationError:  # a file that is named and cannot be read
        token = ""
    if not token:
        tried = "RAY_AUTH_TOKEN, the file named by RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token"
        raise PlatformError(f"{where}: token missing: the cluster asks for one, and none was found (tried {tried})")
    return str(token)


def _token_source() -> str:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"


def use_token() -> None:
    """Switch this process to tokens, also where Ray has been imported already."""
    import ray

    os.environ[AUTH_MODE] = "token"
    ray._raylet.Config.initialize("")


def _compare_versions(metadata: dict[str, Any], where: str) -> None:
    import ray

    if not metadata:
        return  # a head that has only just started; Ray compares again when it connects
    try:
        ray._private.utils.check_version_info(metadata, "this process")
    except RuntimeError as error:
        import platform

        theirs = f"Ray {metadata['ray_version']} on Python {metadata['python_version']}"
        ours = f"Ray {ray.__version__} on Python {platform.python_version()}"
        raise PlatformError(
            f"{where}: wrong version: the cluster runs {theirs}, here is {ours}; use the same"
        ) from error


def _last_started() -> str:
    parent = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    note = Path(parent) / "ray" / "ray_current_cluster"
    try:
        return note.read_text().strip()
    except OSError:
        raise PlatformError(
            f"{ADDRESS}=auto: wrong address: no cluster was started here with `ray start` (there is no {note}); {_FORMS}"
        ) from None


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _machine_address() -> str:
    """The address of this machine as others see it: that of its default route, as Ray finds it; no packet is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 53))  # reserved for documentation: only the route to it is looked up
        return str(probe.getsockname()[0])
    return socket.gethostname()
