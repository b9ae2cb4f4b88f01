"""No test says that something was quick, and none takes a machine that does much else for a fault: one that fails there is heard by nobody.

What must not be waited for never ends by itself, so that a test which waited for it would not end; what must come is waited for by
its coming, for minutes if need be; and of times that were recorded, one in time is enough. Speed is measured in benchmarks/.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator

import pytest

TESTS = Path(__file__).resolve().parents[1]
CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "time"}
RECORDED = {"latency_s", "age", "unseen"}  # fields of what was published
SUMS = {"max", "ptp", "median", "mean", "percentile", "quantile"}  # one late one raises them
PATIENT_S = 60.0  # a busy machine takes as long to start a process, or to find one
WAITS = {
    "until",
    "until_async",
    "logged",
    "status",
    "wait_for_server",
    "wait_for_service",
    "wait_idle",
    "communicate",
    "fail_after",
}
ANSWERS = {"wait", "spin", "stop"}  # which say whether it came


def name_of(node: ast.AST) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def calls(node: ast.AST) -> Iterator[ast.Call]:
    return (c for c in ast.walk(node) if isinstance(c, ast.Call))


def reads_a_clock(node: ast.AST) -> bool:
    return any(name_of(c.func) in CLOCKS for c in calls(node))


def asserted(tree: ast.AST) -> Iterator[ast.expr]:
    return (a.test for a in ast.walk(tree) if isinstance(a, ast.Assert))


def upper_limits(text: str) -> list[int]:
    """The lines that assert that a duration is below a limit: a difference of a clock and something else, a field that holds one,
    or what sums up differences of stamps.
    """
    tree = ast.parse(text)
    taken = {  # the names of durations
        target.id
        for a in ast.walk(tree)
        if isinstance(a, ast.Assign) and isinstance(a.value, ast.BinOp) and reads_a_clock(a.value)
        for target in a.targets
        if isinstance(target, ast.Name) and isinstance(a.value.op, ast.Sub)
    }

    def lasts(node: ast.AST, limit: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in taken
        if not isinstance(limit, ast.Constant):
            return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and reads_a_clock(node)
        if isinstance(node, ast.Attribute):
            return node.attr in RECORDED
        if isinstance(node, ast.BinOp):
            return isinstance(node.op, ast.Sub) and reads_a_clock(node) or lasts(node.left, limit)
        sums = isinstance(node, ast.Call) and name_of(node.func) in SUMS
        return sums and any(re.search("stamp|gap|latenc", name_of(n)) for a in node.args for n in ast.walk(a))

    found = []
    for compare in (c for test in asserted(tree) for c in ast.walk(test)):
        if isinstance(compare, ast.Compare):
            sides = [compare.left, *compare.comparators]
            for left, operator, right in zip(sides, compare.ops, sides[1:]):
                less, more = (left, right) if isinstance(operator, (ast.Lt, ast.LtE)) else (right, left)
                if isinstance(operator, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) and lasts(less, more):
                    found.append(compare.lineno)
    return found


def short_waits(text: str) -> list[int]:
    """The lines that wait less than PATIENT_S for what must come, and fail."""
    tree = ast.parse(text)
    waits = [c for c in calls(tree) if name_of(c.func) in WAITS]
    waits += [c for test in asserted(tree) for c in calls(test) if name_of(c.func) in ANSWERS]

    def seconds(call: ast.Call) -> list[ast.expr]:
        named = [k.value for k in call.keywords if k.arg in ("timeout", "timeout_s", "patience_s", "seconds")]
        return [*call.args, *named]

    waits_s = [(c, a.value) for c in waits for a in seconds(c) if isinstance(a, ast.Constant)]
    waits_s += [
        (c, k.value.value)
        for c in calls(tree)
        if name_of(c.func) in ("run", "check_output")
        for k in c.keywords
        if k.arg == "timeout" and isinstance(k.value, ast.Constant)
    ]
    return sorted({c.lineno for c, s in waits_s if type(s) in (int, float) and s < PATIENT_S})


def sleeps(text: str) -> list[int]:
    """The lines on which a test itself sleeps: neither between two looks nor in the part of somebody who is slow."""

    def own(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(
                child, (ast.While, ast.For, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
            ):
                yield child
                yield from own(child)

    tests = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_"))
    return [n.lineno for t in tests for n in own(t) if isinstance(n, ast.Call) and name_of(n.func) == "sleep"]


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: p.name)
def test_nothing_rests_on_the_speed_of_the_machine(path):
    text = path.read_text()
    assert upper_limits(text) == [], "a duration has an upper limit; ratios and one in time have none"
    assert short_waits(text) == [], f"what must come is waited for at least {PATIENT_S:g} s"
    assert sleeps(text) == [], "after a while nothing is certain; wait for what shows it"


@pytest.mark.parametrize(
    "rule, line, is_one",
    [
        (upper_limits, "assert time.monotonic() - started < 2.0", True),
        (upper_limits, "assert 0.3 < perf_counter() - started <= 2.0, 'why'", True),
        (upper_limits, "took_s = time.process_time() - begun\nassert said and took_s < 1", True),
        (upper_limits, "assert 2 > time.time() - started", True),
        (upper_limits, "assert time.monotonic() - started >= 0.7", False),
        (upper_limits, "assert time.monotonic() < end, 'patience'", False),
        (upper_limits, "assert 0 <= found.age < 5.0", True),
        (upper_limits, "assert 0 <= found.age < since_s", False),
        (upper_limits, "assert np.ptp(stamps_s - numbers / 20) < 0.1", True),
        (upper_limits, "assert np.median(np.diff(stamps)) / 1e9 < 0.1", True),
        (upper_limits, "assert 0 < min(np.diff(stamps)) / 1e9 < 0.1", False),
        (short_waits, "until(lambda: heard, 20.0, 'a picture')", True),
        (short_waits, "process.logged('active: ', timeout_s=30)", True),
        (short_waits, "assert started.wait(5)", True),
        (short_waits, "assert client.spin(20.0, lambda: heard)", True),
        (short_waits, "subprocess.run(command, timeout=10)", True),
        (short_waits, "until(lambda: heard, START_PATIENCE_S)", False),
        (short_waits, "while not stop.wait(0.002): pass", False),
        (short_waits, "subprocess.run(command, timeout=280)", False),
        (sleeps, "def test_it():\n    time.sleep(1.0)", True),
        (sleeps, "def test_it():\n    with camera:\n        time.sleep(1.0)", True),
        (sleeps, "def test_it():\n    while not heard:\n        time.sleep(0.01)", False),
        (sleeps, "def test_it():\n    slow = lambda: time.sleep(1.0)", False),
        (sleeps, "def test_it():\n    def engine():\n        time.sleep(1.0)", False),
    ],
)
def test_a_rule_finds_what_it_looks_for(rule, line, is_one):
    assert bool(rule(line)) == is_one
