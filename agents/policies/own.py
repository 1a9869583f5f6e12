"""Policies from a user's own module: imported because the user named them, and held to the contract at every call.

Whatever goes wrong in that module is told with its file and line, as wrong input; it is never a traceback of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from agents.observation import Observations
from agents.policies.registry import OWN_FORM, Choice, installed
from sim_core.errors import DevOpsSimError, PolicyError, nearest
from sim_core.world import Lane, Scaler

MAX_REPLICAS = 2**31 - 1  # spec.replicas of Kubernetes is an int32
_METHODS = ("reset", "predict", "scalers")


def own_policy(choice: Choice) -> OwnPolicy:
    """Import and make the policy that a user named.

    Args:
        choice: `module:name`, or the name of an entry point; the module is looked up in the current folder first.

    Raises:
        PolicyError: no such module or name in it; its settings do not fit; its code fails; it does not keep the contract.
    """
    module_name, attribute = _address(choice)
    module = _imported(choice, module_name)
    made = _made(choice, module, attribute)
    problems = _contract_problems(made)
    if problems:
        raise PolicyError(choice.text, problems)
    return OwnPolicy(choice, made)


class OwnPolicy:
    """A user's policy behind the checks of the contract; for Args see `agents.policies.contract.Policy`."""

    def __init__(self, choice: Choice, policy: Any):
        self.name = choice.text
        self._choice, self._policy = choice, policy
        self._n_lanes = 0

    @property
    def settings(self) -> dict[str, Any]:
        """As given, and what the policy itself tells in an attribute of that name."""
        told = getattr(self._policy, "settings", None)
        return {**self._choice.settings, **(told if isinstance(told, dict) else {})}

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._n_lanes = len(lanes)
        with _told(self._choice, "reset"):
            self._policy.reset(lanes, duration_s)

    def predict(self, observations: Observations) -> np.ndarray:
        with _told(self._choice, "predict"):
            desired = self._policy.predict(observations)
        expected = (observations.n_lanes, observations.n_services)
        if not isinstance(desired, np.ndarray):
            self._refuse(f"predict: must return a NumPy array of shape {expected} (got {type(desired).__name__})")
        if desired.shape != expected:
            shape = f"{desired.shape}; rows are lanes, columns are services"
            self._refuse(f"predict: must return an array of shape {expected} (got {shape})")
        if desired.dtype.kind not in "iu":
            self._refuse(
                f"predict: must return whole numbers, dtype int64 (got {desired.dtype}; as with "
                "np.ceil(...).astype(np.int64))"
            )
        if desired.size and not 0 <= desired.min() <= desired.max() <= MAX_REPLICAS:
            outside = desired[(desired < 0) | (desired > MAX_REPLICAS)][0]
            self._refuse(f"predict: must return replicas from 0 to {MAX_REPLICAS} (got {outside})")
        return desired.astype(np.int64)

    def scalers(self) -> list[Scaler] | None:
        with _told(self._choice, "scalers"):
            scalers = self._policy.scalers()
        if scalers is None:
            return None
        fits = isinstance(scalers, list | tuple) and all(isinstance(scaler, Scaler) for scaler in scalers)
        if not fits or len(scalers) != self._n_lanes:
            self._refuse(
                f"scalers: must return None or a list of {self._n_lanes} Scaler, one a lane (got {scalers!r:.60})"
            )
        return list(scalers)

    def _refuse(self, problem: str) -> None:
        raise PolicyError(self.name, problem)


def sources_of(choice: Choice) -> str:
    """sha256 [hex] of the user's sources behind a policy: its module, and what that has imported from the same folder.

    Raises:
        PolicyError: see `own_policy`.
    """
    module_name, _ = _address(choice)
    module = _imported(choice, module_name)
    folder = _folder_of(module, module_name)
    loaded = {Path(file) for other in list(sys.modules.values()) if (file := getattr(other, "__file__", None))}
    beside = {file for file in loaded if file.suffix == ".py" and file.is_relative_to(folder)}
    sources = hashlib.sha256()
    for file in sorted(file for file in beside if "site-packages" not in file.relative_to(folder).parts):
        sources.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return sources.hexdigest()


def _folder_of(module: ModuleType, name: str) -> Path:
    """The folder that the top-level package or module lies in."""
    file = Path(str(module.__file__))
    levels = name.count(".") + (file.name == "__init__.py")
    return file.parents[levels]


def _address(choice: Choice) -> tuple[str, str]:
    address = choice.name if ":" in choice.name else installed()[choice.name]
    module, _, attribute = address.partition(":")
    return module, attribute


def _imported(choice: Choice, name: str) -> ModuleType:
    """The module, with the current folder in front of the path as under `python my_script.py`."""
    here = os.getcwd()
    if name in sys.modules:
        return sys.modules[name]
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        with _told(choice, "import"):
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                    raise  # the module is there, and lacks another one
                files = [file.stem for file in Path(here).glob("*.py")]
                rule = f"no module '{error.name}' in {here} or among the installed packages"
                raise PolicyError(choice.text, rule + nearest(name, files)) from None
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # behind everything else: what the module imports later is found, and hides nothing


def _made(choice: Choice, module: ModuleType, attribute: str) -> Any:
    factory: Any = module
    for step in attribute.split("."):
        if not hasattr(factory, step):
            place = getattr(module, "__file__", None) or module.__name__
            raise PolicyError(choice.text, f"{place} has no '{attribute}'{nearest(step, _makers(factory))}")
        factory = getattr(factory, step)
    if not callable(factory):
        raise PolicyError(choice.text, f"'{attribute}' must be a class or a function that makes a policy")
    problems = _settings_problems(factory, choice)
    if problems:
        raise PolicyError(choice.text, problems)
    with _told(choice, attribute):
        return factory(**choice.settings)


def _makers(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def _settings_problems(factory: Any, choice: Choice) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C
        return []
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [parameter.name for parameter in named]
    needed = [parameter.name for parameter in named if parameter.default is parameter.empty]
    unknown = [f"{name}: unknown setting{nearest(name, names)}" for name in choice.settings if name not in names]
    missing = [
        f"{name}: required setting is missing, as in {OWN_FORM}({name}=...)"
        for name in needed
        if name not in choice.settings
    ]
    return unknown + missing


def _contract_problems(policy: Any) -> list[str]:
    problems = []
    if not isinstance(getattr(policy, "name", None), str):
        problems.append("name: must be an attribute that holds text")
    for method in _METHODS:
        if not callable(getattr(policy, method, None)):
            problems.append(f"{method}: required method is missing{nearest(method, dir(policy))}")
    return problems


@contextlib.contextmanager
def _told(choice: Choice, doing: str) -> Iterator[None]:
    """What the user's code raises as an error of ours, with the place in the user's code that is nearest to it."""
    try:
        yield
    except DevOpsSimError:
        raise
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}"
        raise PolicyError(choice.text, f"{doing}: {place}: {type(error).__name__}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise PolicyError(choice.text, f"{doing}: {_place(error)}{type(error).__name__}: {error}") from None


def _place(error: BaseException) -> str:
    """File and line of the innermost frame that is neither ours, nor of Python, nor of an installed package."""
    ours, standard = Path(__file__).parents[2], sysconfig.get_path("stdlib")
    elsewhere = [standard, *(str(ours / package) for package in ("agents", "sim_core"))]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        foreign = frame.filename.startswith("<") or "site-packages" in file.parts
        if not foreign and not any(file.is_relative_to(folder) for folder in elsewhere):
            return f"{frame.filename}, line {frame.lineno}: "
    return ""
