"""The tool that puts errors into a source file, on small files of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants import Mutator, choose, main

SOURCE = '''"""Says 1 + 1 and keeps it."""

from numba import njit


@njit
def capped(value, most=4):
    """The smaller of the two, -1 below 0."""
    if value < 0:
        return -1
    return min(value, most)


def tripled(value):
    total = 0
    for _ in range(3):
        total += value
    return total
'''
TESTS = """from thing import capped, tripled

def test_capped():
    assert [capped(n) for n in (-5, -1, 0, 3, 9)] == [-1, -1, 0, 3, 4]

def test_tripled():
    assert tripled(0) == 0
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "thing.py").write_text(SOURCE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_thing.py").write_text(TESTS)
    return tmp_path


def texts(source: str, *functions: str) -> list[str]:
    return [mutant.applied(source) for mutant in Mutator(source).mutants(functions)]


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("a = x + y", {"a = (x - y)"}),
        ("a = x ** y", {"a = (x * y)"}),
        ("a = (x +  # why\n y) * z", {"a = ((x -  # why\n y)) * z", "a = ((x +  # why\n y) / z)"}),
        ("a = x < y <= z", {"a = x <= y <= z", "a = x < y < z"}),
        ("a = x not in y", {"a = x in y"}),
        ("a = x and y and z", {"a = x or y and z", "a = x and y or z"}),
        ("a = not x", {"a = (x)"}),
        ("a = -x", {"a = (x)"}),
        ("a = 0.5", {"a = 0.0", "a = 0.25", "a = 1.0"}),
        ("a = 3", {"a = 0", "a = 1", "a = 6"}),
        ("a = 0", {"a = 1"}),
        ("a = True", {"a = False"}),
        ("a = min(x, y)", {"a = max(x, y)"}),
        ("a = np.maximum(x, y)", {"a = np.minimum(x, y)"}),
        ("a = x if y else z", {"a = x if False else z", "a = x if True else z"}),
        ("if x:\n    go()", {"if False:\n    go()", "if x:\n    pass"}),
        ("while x:\n    break", {"while False:\n    break", "while x:\n    pass"}),
        ("x += y", {"x -= y", "pass"}),
        ("x.a = y", {"pass"}),
        ("def f():\n    a = x\n    a = y", {"def f():\n    pass\n    a = y", "def f():\n    a = x\n    pass"}),
        ("def f():\n    return x, y", {"def f():\n    return (x) + 1, y", "def f():\n    return x, (y) + 1"}),
        (
            "def f():\n    return x == y",
            {"def f():\n    return x != y", "def f():\n    return not (x == y)"},
        ),
        ("größe = 'ü' + x", {"größe = ('ü' - x)"}),  # places are counted in bytes
    ],
)
def test_each_kind_of_error_is_put_in(source, mutants):
    assert set(texts(source)) == mutants


@pytest.mark.parametrize(
    "source",
    [
        '"""1 + 1"""',
        "import numpy",
        "a: 'int | None'",
        "assert x < y",
        "raise ValueError(x + y)",
        "a = f'{x + y}'",
        "def f(x: int | None) -> int | None: ...",
        "a = b",
        "a, b = c",  # without it there is no a: whatever reads it fails
    ],
)
def test_what_computes_nothing_is_left_alone(source):
    assert texts(source) == []


def test_every_mutant_is_a_program_that_differs_and_none_comes_twice():
    mutants = texts(Path(__file__).with_name("mutants.py").read_text())
    assert len(set(mutants)) == len(mutants) > 200
    for mutant in mutants:
        ast.parse(mutant)


def test_a_choice_is_the_same_for_a_seed_and_in_the_order_of_the_source():
    mutants = Mutator(SOURCE).mutants()
    chosen = choose(mutants, 5, seed=3)
    assert chosen == choose(mutants, 5, seed=3) != choose(mutants, 5, seed=4)
    assert [mutants.index(mutant) for mutant in chosen] == sorted(mutants.index(mutant) for mutant in chosen)
    assert choose(mutants, 1000, seed=3) == mutants


def test_survivors_are_told_with_their_place_and_the_working_tree_stays(project, capsys):
    """Nothing asks `tripled` for anything but 0, so only what changes that is noticed."""
    assert main(["thing.py", "--function", "tripled"], root=project) == 1
    told = capsys.readouterr().out
    assert "thing.py:17: survived in tripled: += becomes -=" in told
    assert "-        total += value\n    +        total -= value" in told
    assert "another value returned" not in told  # killed
    assert "0 becomes 1" not in told
    assert (project / "thing.py").read_text() == SOURCE
    assert {path.name for path in project.iterdir()} == {"thing.py", "tests"}


@pytest.mark.parametrize("kernels", ["compiled", "interpreted"])
def test_the_errors_of_a_kernel_are_noticed(project, capsys, kernels):
    assert main(["thing.py", "--function", "capped", "--most", "3", "--kernels", kernels], root=project) == 0
    assert f"({kernels} kernels)" in capsys.readouterr().out


def test_a_mutant_that_never_ends_is_noticed(project, capsys):
    """Of the two, one counts up and one does not count: -= becomes +=, and the statement lost."""
    (project / "thing.py").write_text("def f(n):\n    while n > 0:\n        n -= 1\n    return n\n")
    (project / "tests" / "test_thing.py").write_text("from thing import f\n\ndef test_f():\n    assert f(3) == 0\n")
    assert main(["thing.py", "--limit", "5", "--most", "2", "--seed", "3"], root=project) == 0
    assert "0 of 2 survived" in capsys.readouterr().out


def test_tests_that_fail_by_themselves_prove_nothing(project, capsys):
    (project / "tests" / "test_thing.py").write_text("import thing\n\ndef test_wrong():\n    assert False\n")
    with pytest.raises(SystemExit) as ended:
        main(["thing.py"], root=project)
    assert ended.value.code == 2
    assert "do not pass" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["nothing.py"], ["thing.py", "--function", "nobody"], ["conftest.py"]])
def test_wrong_arguments_are_refused(project, words, capsys):
    (project / "conftest.py").write_text("A = 1\n")
    with pytest.raises(SystemExit) as ended:
        main(words, root=project)
    assert ended.value.code == 2
