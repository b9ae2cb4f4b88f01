"""The rules that turn what happened into OK, WARN, ERROR or STALE."""

import pytest

from qwen3vl_ros.node.perception.diagnostics import RECENT_S, STALE_AFTER_S, Health, Level


class Clock:
    s = 50.0

    def __call__(self):
        return self.s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    health = Health(clock)
    health.enter("active")
    health.image_arrived()
    return health


def values(health, **counters):
    return dict(health.status(counters).values)


def test_an_active_node_with_images_is_ok(health):
    assert health.status().level is Level.OK


def test_silence_makes_an_active_node_stale_and_only_an_active_one(health, clock):
    clock.s += STALE_AFTER_S + 1
    status = health.status()
    assert status.level is Level.STALE and "3.0 s" in status.message
    health.enter("inactive")
    assert health.status().level is Level.OK


def test_a_problem_fades_unless_it_lasts(health, clock):
    health.problem("3D", Level.WARN, "no depth")
    health.problem("QoS", Level.WARN, "misfit", lasting=True)
    clock.s += RECENT_S + 1
    health.image_arrived()
    status = health.status()
    assert status.message == "misfit" and "problem: 3D" not in dict(status.values)
    health.well("QoS")
    assert health.status().level is Level.OK


def test_the_worst_problem_is_the_message_and_an_error_beats_silence(health, clock):
    health.problem("3D", Level.WARN, "no depth")
    health.failed("engine", Level.ERROR, "device lost", lasting=True)
    clock.s += 60
    assert health.status().level is Level.ERROR and health.status().message == "device lost"
    assert "device lost (60 s ago)" in values(health)["last error"]


def test_silence_names_its_likely_cause(health, clock):
    health.problem("QoS", Level.WARN, "misfit", lasting=True)
    clock.s += 10
    assert "misfit" in health.status().message and health.status().level is Level.STALE


def test_a_failed_configure_is_remembered_while_unconfigured(health):
    health.problem("3D", Level.WARN, "no depth", lasting=True)
    health.failed("configure", Level.ERROR, "no model", lasting=True)
    health.enter("unconfigured")
    assert health.status().message == "no model" and "problem: 3D" not in values(health)


def test_rates_fall_when_the_stream_stops(health, clock):
    for _ in range(60):
        clock.s += 1 / 30
        health.image_arrived()
    assert float(values(health)["input rate"].split()[0]) == pytest.approx(30, abs=1)
    clock.s += 3
    assert float(values(health)["input rate"].split()[0]) < 20
    clock.s += 5
    assert values(health)["input rate"] == "0.0 Hz"


def test_percentiles_and_counts_are_told(health):
    for ms in range(1, 101):
        health.answered(ms / 1000, 0.001)
    health.count("malformed")
    told = values(health, stale=7)
    assert told["latency p50"] == "50.5 ms" and told["overhead p95"] == "94.0 ms" or told["overhead p95"] == "94.1 ms"
    assert (told["answers"], told["malformed"], told["stale"]) == ("100", "1", "7")
