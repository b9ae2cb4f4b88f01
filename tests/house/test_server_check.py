"""The self-test of a server: every scale that is off is named, and no model that merely sees badly is refused."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from asking import ask
from remote_server import ModelServer, RedFinder

from qwen3vl_ros import server_check
from qwen3vl_ros.config import Config, RemoteConfig
from qwen3vl_ros.engine.base import Engine
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.types import WrongModel


def load(server: ModelServer, self_test: bool = True) -> Engine:
    remote = RemoteConfig(url=server.url, self_test=self_test, timeout=120.0, connect_timeout=60.0)
    return load_tested_engine(Config(remote=remote))


def norm(b, w, h):
    return [1000 * v / (w, h)[i % 2] for i, v in enumerate(b)]


def corner_and_size(b, w, h):
    return [*norm(b, w, h)[:2], *norm((b[2] - b[0], b[3] - b[1]), w, h)]


SCALES = [  # words of the refusal, how the server says the box; b is xyxy in pixels of the image
    ("pixels of the image", lambda b, w, h: b),
    ("pixels of an image of about 12[78][0-9]x51[0-9]", lambda b, w, h: [2 * v for v in b]),
    ("pixels of an image of about 44[89]x44[789]", lambda b, w, h: [0.448 * v for v in norm(b, w, h)]),
    ("pixels of an image of about 9[23][0-9]x9[23][0-9]", lambda b, w, h: [0.93 * v for v in norm(b, w, h)]),
    ("fractions 0..1", lambda b, w, h: [v / 1000 for v in norm(b, w, h)]),
    ("per cent", lambda b, w, h: [v / 10 for v in norm(b, w, h)]),
    ("longer side on both axes", lambda b, w, h: norm(b, w, w)),
    ("shorter side on both axes", lambda b, w, h: norm(b, h, h)),
    ("square that the image was padded to", lambda b, w, h: np.add(norm(b, w, w), (0, 300, 0, 300))),
    ("y before x", lambda b, w, h: [norm(b, w, h)[i] for i in (1, 0, 3, 2)]),
    ("corner and size", corner_and_size),
    (r"times \(1.1[0-9], 1\) plus", lambda b, w, h: norm((b[0] - 35, b[1], b[2] - 35, b[3]), w - 80, h)),
]


@pytest.mark.parametrize("words, says", SCALES, ids=[s[0][:30] for s in SCALES])
def test_a_server_whose_coordinates_are_off_is_refused_and_told_why(words, says):
    with ModelServer(RedFinder(says)) as server:
        with pytest.raises(WrongModel, match=f"coordinates are off: they are .*{words}"):
            load(server)
        load(server, self_test=False).close()


def test_a_right_server_passes_with_one_question():
    with ModelServer(RedFinder()) as server:
        engine = load(server)
        assert engine.status()["self_test"] == "passed" and "self-test passed" in engine.info.why
        assert len(server.requests) == 1
        engine.close()


def test_a_server_that_is_not_to_be_tested_is_not_asked():
    with ModelServer(RedFinder(lambda b, w, h: b)) as server:
        engine = load(server, self_test=False)
        assert engine.status()["self_test"] == "off" and not server.requests
        engine.close()


@pytest.mark.parametrize(
    "says",
    [
        lambda b, w, h: [400, 400, 600, 600],  # always the same
        lambda b, w, h: [v + e for v, e in zip(norm(b, w, h), (-200, -150, 0, 300 * (b[0] > 200)))],
    ],
)
def test_a_model_that_sees_badly_is_inconclusive(says):
    with ModelServer(RedFinder(says)) as server:
        engine = load(server)
    assert engine.status()["self_test"].startswith("inconclusive")
    assert "which no one scale explains" in engine.info.why
    engine.close()


def test_a_model_that_sees_roughly_passes_and_says_so():
    rough = {server_check.PLACES[0]: (559, 256, 872, 678), server_check.PLACES[1]: (160, 420, 390, 830)}
    answers = iter(f"[{list(box)}]" for box in rough.values())
    assert server_check.self_test(lambda rgb, prompt: next(answers)).startswith("passed coarsely: the model said [559")


def verdicts(scale: float, sigma: float, count: int = 100) -> dict[str, int]:
    """How often a model that errs by sigma, on a scale that is off by a factor, is refused, passed, …"""
    rng, found = np.random.default_rng(0), Counter()
    for _ in range(count):
        answers = [
            str((np.array(place) * scale + rng.normal(0, sigma, 4)).round().tolist()) for place in server_check.PLACES
        ]
        try:
            found[server_check.self_test(lambda rgb, prompt: answers.pop(0)).split(":")[0]] += 1
        except WrongModel:
            found["refused"] += 1
    return found


@pytest.mark.parametrize("sigma", [5, 20, 40, 80, 200])
def test_imprecision_is_not_taken_for_another_scale(sigma):
    assert verdicts(1.0, sigma)["refused"] <= 1
    assert sigma > 5 or verdicts(1.0, sigma)["passed"] == 100


@pytest.mark.parametrize("scale", [0.5, 0.85, 0.9, 0.93, 1.07, 1.15, 2.0])
def test_a_scale_that_is_a_little_off_is_seen_through_noise(scale):
    assert verdicts(scale, 3)["refused"] >= 99


def test_a_model_that_finds_nothing_is_inconclusive():
    assert server_check.self_test(lambda rgb, prompt: "[]").startswith("inconclusive: the model did not say where")
    assert server_check.self_test(lambda rgb, prompt: "I see no rectangle.").startswith("inconclusive")


def test_the_self_test_asks_as_the_package_does():
    assert server_check.PROMPT == Detect(("red rectangle",)).prompt()
    assert server_check.SIZE_PX[0] != server_check.SIZE_PX[1]


@pytest.mark.parametrize("place", server_check.PLACES)
def test_the_picture_holds_the_box(place):
    shown = server_check.picture(place)
    numbers = re.findall(r"[\d.]+", ask(RedFinder(), [shown.rgb], "").text.split("[", 2)[2])[:4]
    np.testing.assert_allclose([float(n) for n in numbers], place, atol=2.5)
