"""The reference engine against `transformers`' own generate(), pixels and tokens, and every way a model can be wrong."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import asking
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official import OfficialImages
from tiny import tiny_checkpoint
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from qwen3vl_ros.config import Config, from_flat
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine import embedded_model_dir, load_engine, local
from qwen3vl_ros.engine.base import Limits
from qwen3vl_ros.engine.checkpoint import find_checkpoint
from qwen3vl_ros.engine.prompt.pixels import PixelRule
from qwen3vl_ros.engine.prompt.tokens import ChatTokens, Message
from qwen3vl_ros.engine.torch import device, transformers_runtime
from qwen3vl_ros.types import EngineError, InvalidInput, ModelNotFound, OutOfMemory, WrongModel

ROOT = Path(__file__).resolve().parents[2]
torch.set_num_threads(1)  # on matrices this small a second thread only waits for the first
LIMITS = Limits(max_new_tokens=40, deadline_s=3600.0, repeat_limit=100)
ask = functools.partial(asking.ask, limits=LIMITS)
SIZES = [(640, 480), (32, 32), (100, 300), (641, 90), (31, 33)]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {
        "dense": tiny_checkpoint(root / "dense"),
        "moe": tiny_checkpoint(root / "moe", moe=True),
        "thinking": tiny_checkpoint(root / "thinking", thinking=True),
    }


@pytest.fixture
def copy(checkpoints, tmp_path) -> Path:
    """A dense checkpoint a test may damage."""
    return Path(shutil.copytree(checkpoints["dense"], tmp_path / "model"))


@pytest.fixture(scope="session")
def engine(checkpoints):
    return load_engine(config(checkpoints["dense"]))


def config(model: Path | str, **generation) -> Config:
    return from_flat(
        {"model": str(model), "engine": "transformers"} | {f"generation.{k}": v for k, v in generation.items()}
    )


def picture(seed: int, width: int = 160, height: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# -- parity with the reference ---------------------------------------------------------------------------------------


def reference(directory: Path, images: list[np.ndarray], prompt: str, max_new_tokens: int):
    """(token ids, log-probabilities) of transformers' own tokenizer, template, image processor and generate()."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    processor = OfficialImages.from_pretrained(directory)
    architecture = json.loads((directory / "config.json").read_text())["architectures"][0]
    model = getattr(transformers_runtime, architecture).from_pretrained(directory, dtype=torch.float32).eval()
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": prompt}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    vision = {}
    if images:
        vision = dict(processor(images, return_tensors="pt"))
        for count in (vision["image_grid_thw"].prod(-1) // 4).tolist():
            text = text.replace("<|image_pad|>", "<placeholder>" * count, 1)
        text = text.replace("<placeholder>", "<|image_pad|>")
    ids = tokenizer(text, return_tensors="pt").input_ids
    mask = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=mask,
        **vision,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = out.sequences[0, ids.shape[1] :].tolist()
    logprobs = [float(step[0].float().log_softmax(-1)[token]) for step, token in zip(out.logits, new)]
    return new, logprobs


def decoded_by(engine, monkeypatch, images, prompt, max_new_tokens):
    """What the decode loop gave, the tokens of <think> and of white space included."""
    kept = []
    real = local.decode
    monkeypatch.setattr(local, "decode", lambda *a, **k: kept.append(real(*a, **k)) or kept[-1])
    generation = ask(engine, images, prompt, limits=dataclasses.replace(LIMITS, max_new_tokens=max_new_tokens))
    return generation, kept[0]


def assert_parity(directory: Path, monkeypatch, cases, max_new_tokens: int, least_varied: int = 10) -> None:
    engine = load_engine(config(directory))
    varied = 0
    for images, prompt in cases:
        expected, logprobs = reference(directory, images, prompt, max_new_tokens)
        with monkeypatch.context() as patch:
            generation, run = decoded_by(engine, patch, images, prompt, max_new_tokens)
        if generation.finish_reason == "repeat":  # the only reason to stop earlier
            expected, logprobs = expected[: len(run.token_ids)], logprobs[: len(run.token_ids)]
        elif generation.finish_reason == "stop":
            assert expected[-1] in engine._preparation.tokens.stop_ids
            expected, logprobs = expected[:-1], logprobs[:-1]
        assert run.token_ids == expected
        np.testing.assert_allclose(run.logprobs, logprobs, atol=2e-4)
        varied = max(varied, len(set(expected)))
    assert varied >= least_varied, "no case said anything worth comparing"


@pytest.mark.parametrize("kind", ["dense", "moe", "thinking"])
def test_tokens_are_those_of_generate(checkpoints, monkeypatch, kind):
    cases = [
        ([picture(1)], "Locate the red cube."),
        ([picture(2), picture(3, 90, 200)], "Was ist anders? é 杯子"),
        ([picture(4, 640, 480)], "mug"),
        ([], "no image"),
    ]
    assert_parity(checkpoints[kind], monkeypatch, cases, 40)


def test_embedded_model_says_what_generate_says(monkeypatch):
    try:
        directory = embedded_model_dir()
    except ModelNotFound:
        pytest.skip("model/embedded is not in this tree")
    prompt = (
        'Locate every instance that belongs to the following categories: "cube, ball". Report bbox coordinates in '
        "JSON format."
    )
    table = np.full((480, 640, 3), 170, np.uint8)
    table[200:300, 250:350] = (200, 30, 30)
    table[240:300, 450:510] = (30, 60, 200)
    # "Nothing there" is a true answer to some of these, and short.
    assert_parity(directory, monkeypatch, [([table], prompt), ([picture(0, 640, 480)], prompt)], 80, least_varied=1)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_the_reference(checkpoints, size):
    image = picture(5, *size)
    expected = OfficialImages.from_pretrained(checkpoints["dense"])(image, return_tensors="np")
    patches, grid = PixelRule.read(checkpoints["dense"]).patches([image])
    assert grid.tolist() == expected["image_grid_thw"].tolist()
    np.testing.assert_allclose(patches, expected["pixel_values"], atol=1e-6)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(10, 14), st.integers(0, 8))
def test_resizing_is_that_of_the_reference(width, height, smallest, span):
    rule = PixelRule(16, 2, 2, 2**smallest, 2 ** (smallest + span), (0.5,) * 3, (0.5,) * 3)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(InvalidInput, match="1:200"):
            rule.resized(width, height)
    else:
        assert rule.resized(width, height) == smart_resize(height, width, 32, rule.min_area, rule.max_area)[::-1]


@settings(deadline=None)
@given(text=st.text(max_size=60))
def test_bytes_of_tokens_spell_the_text(checkpoints, text):
    tokens = ChatTokens(checkpoints["dense"])
    said = b"".join(map(tokens.bytes_of, tokens.encode([Message("user", text)])))
    assert said == b"user\n" + text.encode() + b"\nassistant\n"


def test_control_tokens_in_a_prompt_stay_text(checkpoints):
    tokens = ChatTokens(checkpoints["dense"])
    ids = tokens.encode([Message("user", "<|image_pad|> <|im_end|> <|im_start|>system", [5])])
    assert ids.count(tokens.image_id) == 5
    plain = tokens.encode([Message("user", "x", [5])])
    for token in tokens.stop_ids:
        assert ids.count(token) == plain.count(token)


# -- what an engine promises ----------------------------------------------------------------------------------------


def test_info_says_what_runs_and_why(engine, checkpoints):
    info = engine.info
    assert (info.runtime, info.model) == ("transformers", str(checkpoints["dense"]))
    assert info.architecture == "Qwen3VLForConditionalGeneration" and not info.thinking
    assert info.parameters == sum(p.numel() for p in engine._runtime.model.parameters())
    assert (
        "auto" not in (info.device, info.dtype)
        and "transformers" in info.why
        and info.device.split(":")[0] in info.why.lower()
    )
    assert load_engine(config(checkpoints["moe"])).info.architecture == "Qwen3VLMoeForConditionalGeneration"


def test_generation_is_whole(engine):
    g = ask(engine, [picture(1)], "Locate the red cube.")
    assert g.finish_reason == "length" and g.generated_tokens == g.forward_passes == 40
    assert g.prompt == "Locate the red cube." and g.prompt_tokens > 20
    assert len(g.token_ids) == len(g.logprobs) == len(g.token_ends) > 10 and g.token_ends[-1] == len(g.text)
    assert np.all(g.logprobs <= 0) and min(g.preprocess_s, g.prefill_s, g.decode_s) > 0


def test_thinking_goes_to_reasoning(checkpoints):
    thinking = load_engine(config(checkpoints["thinking"]))
    assert thinking.info.thinking
    g = ask(thinking, [picture(4, 640, 480)], "mug")
    if "</think>" not in g.reasoning + g.text:
        assert g.text == "" and g.reasoning and g.token_ids == () and g.generated_tokens == 40


@pytest.mark.parametrize("kind", ["dense", "moe", "thinking"])
def test_the_answer_is_heard_while_it_grows(checkpoints, kind):
    """Random weights say bytes that are no text, which every part has to bear."""
    engine, odd = load_engine(config(checkpoints[kind])), 0
    for seed in range(4):
        heard: list[str] = []
        said = ask(engine, [picture(seed)], "Locate the red cube.", on_text=heard.append)
        assert "".join(heard) == said.text and (len(heard) > 5 or not said.text)
        odd += "\ufffd" in said.text
    assert odd or kind == "thinking"


def test_engine_repeats_itself_and_keeps_nothing(engine):
    first = ask(engine, [picture(1)], "Locate the red cube.")
    ask(engine, [picture(2, 320, 200), picture(3)], "something else")
    again = ask(engine, [picture(1)], "Locate the red cube.")
    assert again.token_ids == first.token_ids
    np.testing.assert_allclose(again.logprobs, first.logprobs, atol=1e-4)  # sums of other lengths round otherwise


def test_limits_change_between_answers(engine):
    for most in (3, 40, 5):
        assert (
            ask(engine, [picture(1)], "a", limits=dataclasses.replace(LIMITS, max_new_tokens=most)).generated_tokens
            == most
        )


def test_cancel_and_deadline_before_the_first_token(engine):
    control = Control()
    control.cancel()
    g = ask(engine, [picture(1)], "a", control)
    assert (g.finish_reason, g.text, g.token_ids, g.forward_passes) == ("cancelled", "", (), 0)
    assert ask(engine, [picture(1)], "a", Control(deadline_s=0.0)).finish_reason == "deadline"


def test_cancel_inside_the_prompt_pass(engine):
    """A large model reads its prompt for seconds: cancel must not wait for that."""
    control = Control()
    visited = []

    def cancel_in_second_layer(*_):
        visited.append(True)
        control.cancel()

    layers = engine._runtime.model.model.language_model.layers
    handles = [
        layers[1].register_forward_hook(cancel_in_second_layer),
        layers[2].register_forward_hook(lambda *_: visited.append(False)),
    ]
    try:
        g = ask(engine, [picture(1)], "a", control)
    finally:
        for handle in handles:
            handle.remove()
    assert g.finish_reason == "cancelled" and visited == [True]
    assert ask(engine, [picture(1)], "a").finish_reason == "length", "the next answer is not affected"


def test_cancel_from_another_thread_stops_within_a_token(checkpoints):
    long = load_engine(config(checkpoints["dense"]))
    control, stepped = Control(), threading.Event()
    seen_after_cancel = []

    def watch(*_):
        stepped.set()
        if control.cancelled:
            seen_after_cancel.append(1)

    long._runtime.model.model.language_model.register_forward_pre_hook(watch)
    threading.Thread(target=lambda: (stepped.wait(), control.cancel("enough"))).start()
    g = ask(long, [picture(1)], "a", control, limits=Limits(4000, 600.0, 100))
    # "repeat" is how random weights may end; the fixture's do not that early.
    assert g.finish_reason == "cancelled" and len(seen_after_cancel) <= 1


def test_closed_engine_says_so(checkpoints):
    closed = load_engine(config(checkpoints["dense"]))
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        ask(closed, [picture(1)], "a")


def test_prompt_longer_than_the_model(copy):
    values = json.loads((copy / "config.json").read_text())
    values["text_config"]["max_position_embeddings"] = 60
    (copy / "config.json").write_text(json.dumps(values))
    short = load_engine(config(copy, min_pixels=1024, max_pixels=4096))
    assert ask(short, [picture(1)], "a").generated_tokens < 40, "the answer ends where the model's memory does"
    with pytest.raises(EngineError, match="60; shorten the text, lower generation.max_pixels"):
        ask(short, [picture(1)], "a" * 100)


def test_pixel_limits_of_the_configuration_count(checkpoints):
    small = load_engine(config(checkpoints["dense"], min_pixels=1024, max_pixels=4096))
    large = load_engine(config(checkpoints["dense"], min_pixels=1024, max_pixels=640 * 480))
    a, b = (ask(e, [picture(1, 640, 480)], "a").prompt_tokens for e in (small, large))
    assert b - a == 300 - 2  # 640x480 in tokens of 32x32, and what fits into 4096 pixels at 4:3
    with pytest.raises(InvalidInput, match="max_pixels"):
        load_engine(config(checkpoints["dense"], max_pixels=100))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 900, 3), np.uint8),
        "image.png",
    ],
)
def test_bad_images_are_refused(engine, image):
    with pytest.raises(InvalidInput):
        ask(engine, [image], "a")


# -- other layouts of the same files --------------------------------------------------------------------------------


def test_template_and_processor_in_their_other_places(copy, engine):
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    processor = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    expected = ask(engine, [picture(1)], "a").token_ids
    assert ask(load_engine(config(copy)), [picture(1)], "a").token_ids == expected
    (copy / "chat_template.json").unlink()
    edit(copy / "tokenizer_config.json", chat_template=template)
    assert ask(load_engine(config(copy)), [picture(1)], "a").token_ids == expected


def test_weights_in_shards(copy, engine):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for name, keys in parts.items():
        save_file({k: weights[k] for k in keys}, copy / name, metadata={"format": "pt"})
    (copy / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {k: name for name, keys in parts.items() for k in keys}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = load_engine(config(copy))
    assert sharded.info.parameters == engine.info.parameters
    assert ask(sharded, [picture(1)], "a").token_ids == ask(engine, [picture(1)], "a").token_ids
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WrongModel, match="lacks model-00002-of-00002.safetensors"):
        find_checkpoint(str(copy))


# -- every way a model can be wrong ----------------------------------------------------------------------------------


def _truncate(d: Path) -> None:
    (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:100_000])


def _drop_a_weight(d: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(d / "model.safetensors")
    weights.pop("model.language_model.layers.1.mlp.up_proj.weight")
    save_file(weights, d / "model.safetensors", metadata={"format": "pt"})


def _set_text_config(**values):
    def apply(d: Path) -> None:
        config_json = json.loads((d / "config.json").read_text())
        config_json["text_config"] |= values
        (d / "config.json").write_text(json.dumps(config_json))

    return apply


def _index(shard):
    index = {"weight_map": {"a": "model.safetensors", "b": shard}}
    return lambda d: (d / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGE = {
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config is not JSON": (lambda d: (d / "config.json").write_text("{"), "config.json cannot be read as JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "JSON list"),
    "Qwen2.5-VL": (
        lambda d: edit(d / "config.json", architectures=["Qwen2_5_VLForConditionalGeneration"]),
        "is Qwen2_5_VLForConditionalGeneration, not a Qwen3-VL",
    ),
    "a text model": (lambda d: edit(d / "config.json", architectures=["Qwen3ForCausalLM"]), "is Qwen3ForCausalLM"),
    "no architecture": (lambda d: edit(d / "config.json", architectures=None), "model_type 'qwen3_vl'"),
    "config without vision": (lambda d: edit(d / "config.json", vision_config=None), "no text_config or vision_config"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "lacks model.safetensors"),
    "only pickled weights": (
        lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
        "pytorch_model.bin cannot be used",
    ),
    "truncated weights": (_truncate, r"model.safetensors \(100000 bytes\) is truncated"),
    "weights are text": (
        lambda d: (d / "model.safetensors").write_text("<html>not found</html>" * 9),
        "not safetensors",
    ),
    "a Git LFS pointer": (
        lambda d: (d / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "a weight missing": (_drop_a_weight, "1 weights are missing"),
    "weights of another size": (_set_text_config(intermediate_size=128), "do not belong together"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "lacks tokenizer.json"),
    "broken tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), "is no tokenizer"),
    "no processor": (lambda d: (d / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
    "processor without sizes": (lambda d: edit(d / "preprocessor_config.json", size={}), "min_pixels"),
    "processor of other patches": (
        lambda d: edit(d / "preprocessor_config.json", patch_size=14),
        "config.json is for 16",
    ),
    "processor of no patches": (lambda d: edit(d / "preprocessor_config.json", patch_size=0), "impossible pictures"),
    "processor that divides by nought": (
        lambda d: edit(d / "preprocessor_config.json", image_std=[0, 0, 0]),
        "impossible pictures",
    ),
    "positions that are none": (_set_text_config(max_position_embeddings=0), "no number of tokens"),
    "shards of no name": (_index(5), "no file of weights beside it"),
    "shards elsewhere": (_index("../other/model.safetensors"), "no file of weights beside it"),
    "shards that are no weights": (_index("config.json"), "no file of weights beside it"),
    "no template": (lambda d: (d / "chat_template.jinja").unlink(), "no chat template"),
    "template that fails as it runs": (
        lambda d: (d / "chat_template.jinja").write_text("{{ 1 / 0 }}"),
        "chat template fails: division by zero",
    ),
    "template that is no text": (
        lambda d: (d / "chat_template.jinja").write_bytes(b"\xff\xfe{{ messages }}"),
        "exactly once",
    ),
    "template with an error": (
        lambda d: (d / "chat_template.jinja").write_text("{% if %}"),
        "chat template .* is broken",
    ),
    "template drops the prompt": (lambda d: (d / "chat_template.jinja").write_text("<|im_start|>"), "exactly once"),
    "template drops images": (
        lambda d: (d / "chat_template.jinja").write_text("{{ messages[0].content[-1].text }}"),
        "0 <.image_pad.> of 1 images",
    ),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_damaged_models_are_named(copy, damage, message):
    damage(copy)
    with pytest.raises(WrongModel, match=message):
        load_engine(config(copy))


def test_weights_that_are_not_numbers(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["model.language_model.norm.weight"].fill_(float("nan"))
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match="not a number"):
        load_engine(config(copy))


@pytest.mark.parametrize(
    "model, message",
    [
        ("./nowhere", "neither an existing directory"),
        ("Qwen3-VL-2B", "neither"),
        (__file__, "is a file"),
        ("/nowhere/at/all", "neither"),
    ],
)
def test_no_such_model(model, message):
    with pytest.raises(ModelNotFound, match=message):
        load_engine(config(model))


def test_missing_embedded_model_names_the_place(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    with pytest.raises(ModelNotFound, match="model/embedded"):
        embedded_model_dir()


def test_device_that_is_not_there(checkpoints, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:3"):
        with pytest.raises(EngineError, match=f"'{name}' was asked for.*auto or cpu"):
            load_engine(dataclasses.replace(config(checkpoints["dense"]), device=name))
    for name in ("gpu", "tpu:1", "meta"):
        with pytest.raises(EngineError, match="use auto, cpu, cuda"):
            load_engine(dataclasses.replace(config(checkpoints["dense"]), device=name))


def test_fp8_on_a_cpu(copy):
    edit(copy / "config.json", quantization_config={"quant_method": "fp8", "fmt": "e4m3"})
    with pytest.raises(EngineError, match="FP8 weights, which a CPU cannot compute"):
        load_engine(dataclasses.replace(config(copy), device="cpu"))


def test_too_little_memory_is_known_before_loading(checkpoints, monkeypatch):
    monkeypatch.setattr(device, "free_memory_bytes", lambda _: 2**19)
    monkeypatch.setattr(transformers_runtime, "load_model", lambda *a: pytest.fail("loaded although it cannot fit"))
    with pytest.raises(OutOfMemory, match="0.0 GiB as float32 and cpu has 0.0 GiB free; use a smaller model, or dtype"):
        load_engine(dataclasses.replace(config(checkpoints["dense"]), device="cpu"))


def test_running_out_of_memory_while_answering(engine, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB")

    monkeypatch.setattr(engine._runtime.model.model.language_model, "forward", exhausted)
    with pytest.raises(OutOfMemory, match="20.00 GiB.*lower generation.max_pixels"):
        ask(engine, [picture(1)], "a")


def test_other_failures_of_torch_are_not_called_memory(engine, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engine._runtime.model.model.language_model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        ask(engine, [picture(1)], "a")


def test_runtime_that_is_too_old_or_missing(checkpoints, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(transformers_runtime.transformers, "__version__", "5.3.0")
        with pytest.raises(EngineError, match="5.3.0 is too old; pip install 'transformers>=5.4,<6'"):
            load_engine(config(checkpoints["dense"]))
    monkeypatch.setitem(sys.modules, "qwen3vl_ros.engine.torch.transformers_runtime", None)
    with pytest.raises(EngineError, match="cannot be imported.*qwen3vl doctor"):
        load_engine(config(checkpoints["dense"]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_precision_asked_for_is_the_one_that_runs(checkpoints, dtype):
    chosen = load_engine(dataclasses.replace(config(checkpoints["dense"]), dtype=dtype, device="cpu"))
    assert chosen.info.dtype == dtype and f"dtype {dtype} was asked for" in chosen.info.why
    assert {str(p.dtype) for p in chosen._runtime.model.parameters()} == {f"torch.{dtype}"}
    assert ask(chosen, [picture(1)], "a").token_ids


# -- the hub -----------------------------------------------------------------------------------------------------------


class FakeHub(BaseHTTPRequestHandler):
    """Answers as the hub does for ids that are missing, gated, or of another family."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        if "/gated/" in self.path and "resolve" in self.path:
            self._reply(403, {"X-Error-Code": "GatedRepo"})
        elif "/missing/" in self.path:
            self._reply(404, {"X-Error-Code": "RepoNotFound"})
        elif "/down/" in self.path:
            self._reply(503, {})
        elif "/api/models/" in self.path:
            self._reply(200, {}, json.dumps({"id": "x/y", "siblings": [{"rfilename": "config.json"}]}).encode())
        elif "/other/" in self.path:
            self._reply(
                200,
                {"ETag": '"1"', "X-Repo-Commit": "0" * 40},
                json.dumps({"architectures": ["Qwen2_5_VLForConditionalGeneration"]}).encode(),
            )
        else:
            self._reply(404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def _reply(self, status: int, headers: dict, body: bytes = b""):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


ASK_THE_HUB = """
import json, sys
from qwen3vl_ros.engine.base import Limits
from qwen3vl_ros.engine.checkpoint import find_checkpoint
for model in sys.argv[1:]:
    try:
        find_checkpoint(model)
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def ask_the_hub(tmp_path, endpoint: str, *models: str, **environment: str) -> list[list[str]]:
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        [sys.executable, "-c", ASK_THE_HUB, *models], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_hub_ids_that_cannot_be_had(tmp_path):
    FakeHub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        answers = ask_the_hub(
            tmp_path,
            f"http://127.0.0.1:{server.server_port}",
            "missing/model",
            "gated/model",
            "other/model",
            "empty/model",
            "down/model",
        )
    finally:
        server.shutdown()
        server.server_close()
    expected = [
        ("ModelNotFound", "the hub has no model 'missing/model'"),
        ("ModelNotFound", "is gated"),
        ("WrongModel", "other/model is Qwen2_5_VL"),
        ("WrongModel", "empty/model has no config.json"),
        ("ModelNotFound", "could not be downloaded"),
    ]
    for (kind, message), (expected_kind, part) in zip(answers, expected, strict=True):
        assert kind == expected_kind and part in message, message
    assert not any("safetensors" in path for path in FakeHub.asked)
    assert sum("/down/" in path for path in FakeHub.asked) == 1, "no retries before saying so"


def test_no_network_and_offline_mode(tmp_path):
    with_no_network = ask_the_hub(tmp_path, "http://127.0.0.1:9", "Qwen/Qwen3-VL-2B-Instruct")
    offline = ask_the_hub(tmp_path, "http://127.0.0.1:9", "Qwen/Qwen3-VL-2B-Instruct", HF_HUB_OFFLINE="1")
    for (kind, message), part in ((*with_no_network, "could not be downloaded"), (*offline, "HF_HUB_OFFLINE is set")):
        assert kind == "ModelNotFound" and part in message
        assert "hf download Qwen/Qwen3-VL-2B-Instruct --local-dir DIR" in message
