"""No test says that something was quick: a machine that does much else is slow, and a test that fails there is heard by nobody.

What must not be waited for never ends by itself, so that a test which waited for it would not end; speed is measured in benchmarks/.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "time"}


def reads_a_clock(node: ast.AST) -> bool:
    calls = (c for c in ast.walk(node) if isinstance(c, ast.Call))
    return any(getattr(c.func, "attr", getattr(c.func, "id", "")) in CLOCKS for c in calls)


def upper_limits(text: str) -> list[int]:
    """The lines that assert that a duration, a difference of a clock and something else, is below a limit."""
    tree = ast.parse(text)
    taken = {  # the names of durations
        target.id
        for a in ast.walk(tree)
        if isinstance(a, ast.Assign) and isinstance(a.value, ast.BinOp) and reads_a_clock(a.value)
        for target in a.targets
        if isinstance(target, ast.Name) and isinstance(a.value.op, ast.Sub)
    }

    def lasts(node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in taken
        return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and reads_a_clock(node)

    found = []
    for compare in (c for a in ast.walk(tree) if isinstance(a, ast.Assert) for c in ast.walk(a.test)):
        if isinstance(compare, ast.Compare):
            sides = [compare.left, *compare.comparators]
            for left, operator, right in zip(sides, compare.ops, sides[1:]):
                less = left if isinstance(operator, (ast.Lt, ast.LtE)) else right
                if isinstance(operator, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) and lasts(less):
                    found.append(compare.lineno)
    return found


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: p.name)
def test_no_duration_has_an_upper_limit(path):
    assert upper_limits(path.read_text()) == []


@pytest.mark.parametrize(
    "line, is_one",
    [
        ("assert time.monotonic() - started < 2.0", True),
        ("assert 0.3 < perf_counter() - started <= 2.0, 'why'", True),
        ("took_s = time.process_time() - begun\nassert said and took_s < 1", True),
        ("assert 2 > time.time() - started", True),
        ("assert time.monotonic() - started >= 0.7", False),
        ("assert time.monotonic() < end, 'patience'", False),
    ],
)
def test_the_rule_finds_what_it_looks_for(line, is_one):
    assert bool(upper_limits(line)) == is_one
