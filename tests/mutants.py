"""Small errors put into one source file, one at a time, and which of them no test notices.

    python -m tests.mutants sim_core/randomness.py --function poisson_quantile --tests tests/test_randomness.py

Works on a copy of the repository in a temporary folder; the working tree stays as it is. A survivor is either an error
that a test should have caught, or a change that makes no difference (another way to write the same). Exit code 0: all
were noticed, 1: some survived, 2: the tests do not pass without any error, or the arguments are wrong.

Why not a library: mutmut leaves decorated functions alone, which is every kernel; cosmic-ray edits the working tree, has
no operator for a lost statement, a lost branch, min and max or a scaled constant, and makes 1,000 mutants of a file of
100 lines by trying each arithmetic operator in place of each other.
"""

from __future__ import annotations

import argparse
import ast
import bisect
import contextlib
import difflib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

_OPERATORS: dict[type, tuple[str, str]] = {  # of an expression and of an augmented assignment: as written, as mutated
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
_COMPARISONS: dict[type, tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_OPPOSITES = [
    ("min", "max"),
    ("minimum", "maximum"),
    ("fmin", "fmax"),
    ("argmin", "argmax"),
    ("floor", "ceil"),
    ("any", "all"),
]
_BASELINE_LIMIT_S = 3600.0
_OPPOSITE = {left: right for pair in _OPPOSITES for left, right in (pair, pair[::-1])}


@dataclass(frozen=True)
class Mutant:
    """One change of the source: bytes `start` to `end` become `text`."""

    start: int
    end: int
    text: str
    line: int
    function: str
    what: str

    def applied(self, source: str) -> str:
        """The source with the change."""
        raw = source.encode()
        return (raw[: self.start] + self.text.encode() + raw[self.end :]).decode()


class Mutator:
    """Finds the mutants of one source text, in the order in which they stand there."""

    def __init__(self, source: str):
        self._raw = source.encode()
        self._line_starts = [0]
        for line in self._raw.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))
        self._tree = ast.parse(source)

    def mutants(self, functions: Sequence[str] = ()) -> list[Mutant]:
        """All of them, or those of functions with these names; each text once."""
        found: dict[tuple[int, int, str], Mutant] = {}
        for mutant in self._below(self._tree, "", frozenset()):
            if not functions or any(name in functions for name in mutant.function.split(".")):
                found.setdefault((mutant.start, mutant.end, mutant.text), mutant)
        return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.text))

    def _below(self, node: ast.AST, function: str, rebound: frozenset[str]) -> Iterator[Mutant]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}".lstrip(".")
            rebound = _bound_twice(node)
        for start, end, text, what in self._of(node, rebound):
            yield Mutant(start, end, text, bisect.bisect_right(self._line_starts, start), function, what)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases"):
                continue  # they compute nothing
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _is_of_no_interest(child):
                    yield from self._below(child, function, rebound)

    def _of(self, node: ast.AST, rebound: frozenset[str]) -> Iterator[tuple[int, int, str, str]]:
        """Changes of one node, not of those below it: start, end, text, what it is."""
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                yield from self._operator(node, left, right, *_OPERATORS.get(type(op), ("", "")))
            case ast.AugAssign(target=target, op=op, value=value):
                written, other = _OPERATORS.get(type(op), ("", ""))
                if written:
                    yield from self._token(target, value, f"{written}=", f"{other}=")
                yield *self._span(node), "pass", "statement lost"
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for before, comparison, after in zip([left, *comparators], ops, comparators, strict=False):
                    yield from self._token(before, after, *_COMPARISONS[type(comparison)])
            case ast.BoolOp(op=op, values=values):
                pair = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
                for before, after in itertools.pairwise(values):
                    yield from self._token(before, after, *pair)
            case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
                yield *self._span(node), f"({self._text(operand)})", "sign lost"
            case ast.Constant(value=value):
                for text in _other_constants(value):
                    yield *self._span(node), text, f"{value!r} becomes {text}"
            case ast.Call(func=ast.Name(id=name)) if name in _OPPOSITE:
                yield *self._span(node.func), _OPPOSITE[name], f"{name} becomes {_OPPOSITE[name]}"
            case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in _OPPOSITE:
                text = f"{self._text(owner)}.{_OPPOSITE[name]}"
                yield *self._span(node.func), text, f"{name} becomes {_OPPOSITE[name]}"
            case ast.If(test=test) | ast.IfExp(test=test):
                yield *self._span(test), "False", "branch lost"
                if node.orelse:
                    yield *self._span(test), "True", "other branch lost"
            case ast.While(test=test):
                yield *self._span(test), "False", "loop lost"
            case ast.Expr() | ast.Continue() | ast.Break():
                yield *self._span(node), "pass", "statement lost"
            case ast.Assign(targets=targets) if rebound.issuperset(_stored(targets)):
                yield *self._span(node), "pass", "statement lost"
            case ast.Return(value=ast.expr() as value):
                for part in value.elts if isinstance(value, ast.Tuple) else [value]:
                    if not isinstance(part, ast.Constant):
                        is_bool = isinstance(part, ast.Compare | ast.BoolOp)
                        text = f"not ({self._text(part)})" if is_bool else f"({self._text(part)}) + 1"
                        yield *self._span(part), text, "another value returned"

    def _operator(
        self, node: ast.AST, left: ast.AST, right: ast.AST, written: str, other: str
    ) -> Iterator[tuple[int, int, str, str]]:
        if not written:
            return
        whole_start, whole_end = self._span(node)
        for start, end, text, what in self._token(left, right, written, other):
            changed = (self._raw[whole_start:start] + text.encode() + self._raw[end:whole_end]).decode()
            yield whole_start, whole_end, f"({changed})", what  # in brackets: the other operator may bind otherwise

    def _token(self, before: ast.AST, after: ast.AST, written: str, other: str) -> Iterator[tuple[int, int, str, str]]:
        """The operator between two nodes, where brackets and ends of lines may stand too."""
        start, end = self._span(before)[1], self._span(after)[0]
        between = self._raw[start:end].decode()
        place = re.search(re.escape(written).replace(r"\ ", r"\s+"), between)
        assert place is not None, f"no {written} in {between!r}"
        at = start + len(between[: place.start()].encode())
        yield at, at + len(place.group().encode()), other, f"{written} becomes {other}"

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._line_starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self._line_starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._raw[start:end].decode()


def _is_of_no_interest(node: ast.AST) -> bool:
    """Docstrings, imports, assertions about our own mistakes, and what only reads as text."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr | ast.Raise):
        return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _bound_twice(scope: ast.AST) -> frozenset[str]:
    """Names without whose first or second assignment there is still a value."""
    return frozenset(name for name, times in Counter(_stored([scope])).items() if times > 1)


def _stored(nodes: Sequence[ast.AST]) -> list[str]:
    """Names that get a value there, as often as they get one; elements and attributes have no name."""
    below = (node for start in nodes for node in ast.walk(start))
    return [node.id for node in below if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _other_constants(value: object) -> list[str]:
    if isinstance(value, bool):
        return [repr(not value)]
    if isinstance(value, int):
        return [repr(other) for other in dict.fromkeys((0, value // 2, 2 * value) if value else (1,)) if other != value]
    if isinstance(value, float):
        return [repr(other) for other in ((0.0, 0.5 * value, 2.0 * value) if value else (1.0,))]
    return []


class Copy:
    """A copy of the repository in which one file changes and tests run."""

    def __init__(self, root: Path, folder: Path, source: Path, tests: Sequence[str]):
        self._root, self._source = folder / "copy", source
        shutil.copytree(root, self._root, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        self._kernels = folder / "kernels"
        self._command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        self._changed_s = int(time.time())
        self.interpreted = False

    def run(self, text: str, limit_s: float) -> tuple[int | None, str]:
        """Exit code of the tests with this text of the source, None where they take too long; what pytest printed."""
        self._write(text)
        changed = {
            "PYTHONPATH": str(self._root),
            "NUMBA_CACHE_DIR": str(self._kernels),
            "NUMBA_DISABLE_JIT": "1" if self.interpreted else "0",
        }
        process = subprocess.Popen(
            self._command,
            cwd=self._root,
            env={**os.environ, **changed},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit_s)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever a broken program has left running
            process.wait()

    def forget_kernels(self) -> None:
        """Removes the machine code of the present text: a callee's error must not live on in a cached caller."""
        shutil.rmtree(self._kernels, ignore_errors=True)

    def _write(self, text: str) -> None:
        path = self._root / self._source
        path.write_text(text)
        self._changed_s += 1  # Python knows stale bytecode by size and whole second
        os.utime(path, (self._changed_s, self._changed_s))


def tests_of(root: Path, source: Path) -> list[str]:
    """Test files that import the module."""
    module = ".".join(source.with_suffix("").parts)
    parent, _, name = module.rpartition(".")
    imports = re.compile(rf"(from|import) {re.escape(module)}\b|from {re.escape(parent)} import .*\b{name}\b")
    files = sorted((root / "tests").rglob("test_*.py"))
    return [file.relative_to(root).as_posix() for file in files if imports.search(file.read_text())]


def difference(source: Path, before: str, after: str) -> str:
    """The lines that changed."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(source), str(source), n=0, lineterm="")
    return "\n".join(f"    {line}" for line in list(lines)[3:])


def choose(mutants: list[Mutant], most: int | None, seed: int) -> list[Mutant]:
    """As many as wanted, at random, in the order of the source."""
    if most is None or most >= len(mutants):
        return mutants
    return [mutants[index] for index in sorted(random.Random(seed).sample(range(len(mutants)), most))]


def baseline(copy: Copy, text: str, mode: str) -> float:
    """Times the tests without any error, chooses between compiled and interpreted kernels; how long they take [s].

    Raises:
        SystemExit: they do not pass.
    """
    took_s: dict[bool, float] = {}
    for interpreted in {"auto": (False, True), "compiled": (False,), "interpreted": (True,)}[mode]:
        copy.interpreted = interpreted
        began_s = time.monotonic()
        code, output = copy.run(text, took_s.get(False, _BASELINE_LIMIT_S))  # slower than compiled is of no use
        if code == 0:
            took_s[interpreted] = time.monotonic() - began_s
        elif not (mode == "auto" and interpreted):
            print(output)
            print("The tests do not pass on the source as it is.", file=sys.stderr)
            raise SystemExit(2)
    copy.interpreted = min(took_s, key=took_s.__getitem__)
    return took_s[copy.interpreted]


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser("python -m tests.mutants", description=str(__doc__).partition("\n")[0])
    parser.add_argument("source", type=Path, help="the file to put errors into, from the root of the repository")
    parser.add_argument(
        "--function", action="append", default=[], metavar="NAME", help="only in this function or class"
    )
    parser.add_argument(
        "--tests", nargs="+", default=[], help="test files or ids; default: files that import the module"
    )
    parser.add_argument("--most", type=int, metavar="N", help="try N mutants, chosen at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument(
        "--kernels", choices=["auto", "compiled", "interpreted"], default="auto", help="auto takes what is faster"
    )
    parser.add_argument(
        "--limit", type=float, metavar="S", help="for one mutant [s]; default: what the tests need times 4"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    given = parser.parse_args(arguments)
    if given.source.is_absolute() or not (root / given.source).is_file():
        parser.error(f"no file {given.source} below {root}")
    text = (root / given.source).read_text()
    mutants = choose(Mutator(text).mutants(given.function), given.most, given.seed)
    if not mutants:
        parser.error(f"nothing to change in {given.source} {' '.join(given.function)}")
    if given.list:
        for mutant in mutants:
            print(f"{given.source}:{mutant.line} {mutant.function}: {mutant.what}")
        return 0
    tests = given.tests or tests_of(root, given.source)
    if not tests:
        parser.error(f"no test file imports {given.source}; name some with --tests")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(root, Path(folder), given.source, tests)
        holds_kernels = re.search(r"\bnjit\b|import kernel\b", text) is not None
        took_s = baseline(copy, text, given.kernels if holds_kernels else "compiled")
        kernels = "interpreted" if copy.interpreted else "compiled"
        print(f"{len(mutants)} mutants, {took_s:.1f} s without one ({kernels} kernels): {' '.join(tests)}", flush=True)
        limit_s = given.limit or 4.0 * took_s + 10.0
        survivors = []
        for mutant in mutants:
            if holds_kernels:
                copy.forget_kernels()
            changed = mutant.applied(text)
            code, _ = copy.run(changed, limit_s)  # that it takes too long is noticed too
            if code == 0:
                survivors.append(mutant)
                print(f"{given.source}:{mutant.line}: survived in {mutant.function or 'the module'}: {mutant.what}")
                print(difference(given.source, text, changed), flush=True)
    print(f"{len(survivors)} of {len(mutants)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the tests that run, too
    sys.exit(main())
