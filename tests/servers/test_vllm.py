"""A real vLLM serves the embedded model: its answers are ours, token for token, and its death is survived.

Skipped with the reason where vLLM has no environment (scripts/peers.py) or cannot have one.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import peers
import pytest
from asking import ask
from vllm_server import VllmServer

from qwen3vl_ros.config import Config, GenerationConfig, RemoteConfig
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine import load_engine
from qwen3vl_ros.engine.base import Limits
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Detect, Gauge, Holds, Point
from qwen3vl_ros.selftest.run import FAILED, PASSED, run
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import EngineUnavailable, Frame, InvalidInput

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
if reason := peers.reason("vllm"):
    pytest.skip(reason, allow_module_level=True)

KINDS = Detect(("cube", "ball", "cylinder", "mug", "bowl"))
QUESTIONS = (KINDS, Detect(("red cube",)), Point(("mug",)), Detect(("blue ball", "white bowl")))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def server(tmp_path_factory, files):
    running = VllmServer(tmp_path_factory.mktemp("vllm"), files)
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def local():
    engine = load_engine(Config(device="cpu"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    with SimCamera(320, 240, quality="fast") as camera:
        return [camera.render(sample_scene(seed), depth=False).rgb for seed in range(3, 13)]


def remote(server, **values) -> Config:
    return Config(remote=RemoteConfig(url=server.url, timeout=60.0, connect_timeout=5.0, **values))


@pytest.fixture
def engine(server):
    engine = load_tested_engine(remote(server))
    yield engine
    engine.close()


def test_forty_answers_of_forty_are_ours_with_their_scores(engine, local, pictures):
    for question in QUESTIONS:
        for picture in pictures:
            ours, theirs = (ask(e, [picture], question.prompt()) for e in (local, engine))
            assert theirs.text == ours.text and theirs.finish_reason == ours.finish_reason == "stop"
            assert theirs.prompt_tokens == ours.prompt_tokens
            assert theirs.token_ends == ours.token_ends
            np.testing.assert_allclose(theirs.logprobs, ours.logprobs, atol=1e-3)


def test_four_pictures_are_seen_in_their_order(engine, local, pictures):
    question = Holds("there is a red cube", (0.0, 1.0, 2.0, 3.0))
    for four in (pictures[:4], pictures[3::-1], pictures[4:8]):
        ours, theirs = (ask(e, four, question.prompt()) for e in (local, engine))
        assert (theirs.text, theirs.prompt_tokens) == (ours.text, ours.prompt_tokens)


@pytest.mark.parametrize("question", [KINDS, Point(("mug",)), Gauge()], ids=lambda q: q.name)
def test_answers_held_to_a_schema_are_those_of_the_grammar_here(server, local, pictures, question):
    config = Config(generation=GenerationConfig(guided=True))
    engine = load_tested_engine(Config(generation=config.generation, remote=remote(server).remote))
    for picture in pictures[:4]:
        frame = Frame(0, "camera", picture)
        ours, theirs = (Perception(e, config).look(frame, question) for e in (local, engine))
        assert theirs.text == ours.text and not theirs.truncated and not theirs.dropped
    engine.close()


def test_a_cancel_ends_the_answer_and_the_next_one_is_whole(engine, local, pictures):
    enough = Limits(400, 60.0, 100)
    control = Control()
    heard: list[str] = []

    def listen(part: str) -> None:
        heard.append(part)
        control.cancel()

    cut = ask(engine, [pictures[0]], KINDS.prompt(), control, on_text=listen, limits=enough)
    whole = ask(engine, [pictures[0]], KINDS.prompt(), limits=enough)
    assert cut.finish_reason == "cancelled" and whole.text.startswith(cut.text) and len(cut.text) < len(whole.text)
    assert whole.text == ask(local, [pictures[0]], KINDS.prompt(), limits=enough).text
    assert engine.health.failures == 0


def test_pictures_travel_as_files_where_the_server_may_read_them(server, files, local, pictures, tmp_path):
    engine = load_tested_engine(remote(server, image_transport="file", image_dir=str(files)))
    assert ask(engine, [pictures[1]], KINDS.prompt()).text == ask(local, [pictures[1]], KINDS.prompt()).text
    engine.close()
    assert not list(files.iterdir())
    with pytest.raises(InvalidInput, match="allowed-local-media-path DIR"):
        load_tested_engine(remote(server, image_transport="file", image_dir=str(tmp_path)))


def test_the_self_test_gives_the_served_model_the_page_of_the_local_one(server):
    served, here = run(remote(server)), run(Config(device="cpu"))
    assert served.good and here.good and not served.count(FAILED)
    there = {o.name: o.verdict for o in served.outcomes}
    asked = {o.name: o.verdict for o in here.outcomes if o.kind}
    assert {name: there[name] for name in asked} == asked and PASSED in asked.values()


def test_a_server_that_is_killed_is_named_left_alone_and_taken_up_again(server, engine, local, pictures):
    before = ask(engine, [pictures[2]], KINDS.prompt())
    killed = threading.Event()

    def listen(part: str) -> None:
        if not killed.is_set():
            server.kill()
            killed.set()

    with pytest.raises(EngineUnavailable, match="broke the connection|cannot connect"):
        ask(engine, [pictures[2]], KINDS.prompt(), on_text=listen)
    assert killed.is_set()
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="cannot connect"):
            ask(engine, [pictures[2]], KINDS.prompt())
    assert engine.status()["circuit"] == "open"
    server.start()
    while engine.health.wait_s:
        time.sleep(0.05)
    after = ask(engine, [pictures[2]], KINDS.prompt())
    assert after.text == before.text == ask(local, [pictures[2]], KINDS.prompt()).text
    assert engine.status()["circuit"] == "closed"
