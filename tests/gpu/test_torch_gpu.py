"""Our network in torch on the GPU that is here: captured and fused steps against a CPU, and what a loaded engine says of them."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="what is tested")

from qwen3vl_ros.config import from_flat
from qwen3vl_ros.engine import Limits, Prompt, load_engine
from qwen3vl_ros.engine.checkpoint import embedded_model_dir, read_checkpoint
from qwen3vl_ros.engine.torch.network import Network
from qwen3vl_ros.engine.torch.runtime import TorchRuntime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
WORDS = np.random.default_rng(0).integers(5, 1000, 300).tolist()


def runtime(device: str) -> TorchRuntime:
    network = Network.load(read_checkpoint(embedded_model_dir()), device, torch.float32)
    return TorchRuntime(network, 900)  # beyond one span of a graph


@pytest.fixture(scope="module")
def reference():
    return runtime("cpu")


def ways():
    return [
        pytest.param("captured"),
        pytest.param("fused", marks=needs_triton),
        pytest.param("overlapped", marks=needs_triton),
    ]


def made(way: str) -> TorchRuntime:
    found = runtime("cuda")
    if way == "fused":
        assert found.fuse() > 0
    if way == "overlapped":
        from qwen3vl_ros.engine.torch.fused import FusedStep

        if torch.cuda.get_device_capability() < (9, 0):
            pytest.skip("this GPU begins no kernel before the last one has ended")
        found._fused = FusedStep(found.network.text, overlap=True)
    return found


@pytest.mark.parametrize("way", ways())
def test_steps_say_what_they_say_on_a_cpu(reference, way):
    """Steps of one, two and sixteen tokens, each twice, over the border of a graph's span, and after a rollback."""
    ours = made(way)
    for r in (ours, reference):
        r.rollback(r.length)
        r.prefill(WORDS)
    for count in (1, 2, 1, 16, 1, 16, *[1] * 200):
        ids = WORDS[ours.length % 250 :][:count]
        scores, expected = ours.step(ids), reference.step(ids)
        assert scores.best()[0] == expected.best()[0]
        assert scores.best()[1] == pytest.approx(expected.best()[1], abs=1e-2)
        close = np.abs(scores.logits() - expected.logits()).max() / np.abs(expected.logits()).max()
        assert close < 2e-3
        if count == 16:
            for r in (ours, reference):
                r.rollback(7)
    assert ours.length > 512
    ours.close()


@needs_triton
def test_a_loaded_engine_says_whether_steps_are_fused():
    picture = np.full((96, 128, 3), 200, np.uint8)
    picture[30:70, 40:90] = (200, 30, 30)
    said = {}
    for fused in (True, False):
        engine = load_engine(from_flat({"engine": "torch", "dtype": "float32", "fused": fused}))
        assert ("steps of one token are fused" in engine.info.why) == fused, engine.info.why
        said[fused] = engine.generate(Prompt("Locate the red cube.", [picture]), Limits(40, 60.0, 4)).token_ids
        engine.close()
    assert said[True] == said[False]


# -- seeing ahead ------------------------------------------------------------------------------------------------------


def stream_of_pictures(count: int) -> list[np.ndarray]:
    found = []
    for number in range(count):
        rgb = np.full((240, 320, 3), 200, np.uint8)
        rgb[60 + 5 * number : 120 + 5 * number, 20 * number : 20 * number + 70] = ((200, 30, 30), (30, 30, 200))[
            number % 2
        ]
        found.append(rgb)
    return found


def coming(*prompts: Prompt):
    left = list(prompts)
    return lambda: (lambda prompt=left.pop(0): prompt) if left else None


def all_seen(engine) -> None:
    engine._ahead._thread.submit(lambda: None).result(300)


@pytest.fixture(params=["float32", "bfloat16"])
def engines(request):
    """The same model with and without it; steps are captured while pictures are being seen: nothing was asked before."""
    if request.param == "bfloat16" and not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bfloat16")
    found = [
        load_engine(from_flat({"engine": "torch", "dtype": request.param, "see_ahead": ahead}))
        for ahead in (True, False)
    ]
    yield found
    for engine in found:
        engine.close()


@pytest.mark.parametrize("drafts", [False, True])
def test_a_stream_seen_ahead_says_the_same_tokens(engines, drafts):
    ours, plain = engines
    pictures, limits = stream_of_pictures(10), Limits(60, 120.0, 100)
    for number, rgb in enumerate(pictures):
        ours.upcoming = coming(*(Prompt("Locate the cube.", [later]) for later in pictures[number + 1 : number + 2]))
        prompt = Prompt("Locate the cube.", [rgb], stream="camera" * drafts)
        assert ours.generate(prompt, limits).token_ids == plain.generate(prompt, limits).token_ids, number
        all_seen(ours)
    assert (ours._ahead.begun, ours._ahead.used, ours._ahead.off) == (9, 9, "")


def test_an_answer_does_not_wait_for_the_picture_that_is_seen_beside_it(engines):
    """The look is held up on the GPU itself; a whole answer is said meanwhile."""
    ours, plain = engines
    first, second = stream_of_pictures(2)
    limits, here = Limits(20, 300.0, 100), threading.get_ident()
    ours.generate(
        Prompt("Locate the cube.", [first]), limits
    )  # its steps are captured: a capture waits for all streams

    def hold(*_):
        if threading.get_ident() != here:
            torch.cuda._sleep(20_000_000_000)  # some ten seconds

    hook = ours._runtime.network.vision.patch.register_forward_hook(hold)
    ours.upcoming = coming(Prompt("Locate the cube.", [second]))
    try:
        said = ours.generate(Prompt("Locate the cube.", [second, first]), limits)
        all_seen(ours)
        assert not ours._runtime._ahead[1].query(), "the picture was seen before the answer ended"
    finally:
        hook.remove()
    assert said.token_ids == plain.generate(Prompt("Locate the cube.", [second, first]), limits).token_ids
    after = Prompt("Locate the cube.", [second])
    assert ours.generate(after, limits).token_ids == plain.generate(after, limits).token_ids
    assert ours._ahead.used == 1


def test_pictures_seen_for_nothing_leave_no_memory(engines):
    ours, plain = engines
    pictures, limits = stream_of_pictures(8), Limits(20, 120.0, 100)
    held = []
    for number in range(24):
        rgb = pictures[number % 8]
        ours.upcoming = coming(Prompt("Locate the cube.", [pictures[(number + 3) % 8]]))  # never the next
        assert ours.generate(Prompt("Locate the cube.", [rgb]), limits).token_ids == (
            plain.generate(Prompt("Locate the cube.", [rgb]), limits).token_ids
        )
        all_seen(ours)
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    assert max(held[12:]) <= max(held[4:12]) and ours._ahead.used == 0
