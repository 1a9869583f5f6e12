"""CONTRIBUTING.md is right: its steps are done as written, with the policy that it makes up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import guard_s

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def block(language: str) -> str:
    """The page's only block of code in a language."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return code


def commands() -> list[str]:
    return block("sh").strip().splitlines()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder that looks like the repository, with the page's policy in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("agents", "experiments", "flows", "sim_core", "tests", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_policy.py").write_text(block("python"))
    (folder / "bin").mkdir()
    for name, words in {"devops-sim": "-m flows.cli", "python": ""}.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        script.chmod(0o755)
    return folder


def follow(checkout: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(checkout)}
    environment |= {"DEVOPS_SIM_HOME": str(checkout / "state"), "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:xdist"}
    return subprocess.run(
        command, shell=True, cwd=checkout, env=environment, capture_output=True, text=True, timeout=guard_s()
    )


@pytest.mark.parametrize("number", range(3))
def test_the_steps_of_a_policy_can_be_followed(checkout, number):
    """Each command of the page, as it stands there, by a shell; the last one holds the policy to the contract."""
    done = follow(checkout, commands()[number])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my_policy:RequestRate" in done.stdout or re.search(r"\d+ passed", done.stdout)


def test_the_contract_is_checked_on_the_policy_that_is_named(checkout):
    """The contract's tests run on the user's policy too, and one that breaks the contract fails them."""
    command = commands()[2]
    named = follow(checkout, f"{command} --collect-only -q")
    assert "my_policy:RequestRate" in named.stdout
    (checkout / "forgetful.py").write_text(
        block("python") + "\n\nclass Forgetful(RequestRate):\n    calls = 0\n\n    def predict(self, observations):\n"
        "        Forgetful.calls += 1  # never forgotten\n        return super().predict(observations) + Forgetful.calls\n"
    )
    broken = follow(
        checkout, command.replace("my_policy:RequestRate", "forgetful:Forgetful").replace("RequestRate", "Forgetful")
    )
    assert broken.returncode == 1, broken.stdout
    assert "test_a_policy_is_deterministic_and_forgets_at_reset" in broken.stdout


def test_the_page_has_three_commands_for_a_policy():
    """As many as the test above follows."""
    assert len(commands()) == 3


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:agents|experiments|flows|sim_core|tests)/[\w/.-]+)`", PAGE)))
)
def test_the_files_that_the_page_names_exist(path):
    assert (ROOT / path).exists()
