"""What an engine is asked is valid once made, and chats become the tokens of the official template."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official import official_inputs
from tiny import tiny_checkpoint

from qwen3vl_ros.config import GenerationConfig
from qwen3vl_ros.engine import embedded_model_dir
from qwen3vl_ros.engine.base import Clip, Limits, Prompt, Turn
from qwen3vl_ros.engine.prompt import pixels
from qwen3vl_ros.engine.prompt.prepare import Preparation
from qwen3vl_ros.engine.prompt.tokens import ChatTokens, Message
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

RED = np.full((64, 64, 3), (200, 30, 30), np.uint8)
USER, ASSISTANT = Turn("user", "a", [RED]), Turn("assistant", "b")

# -- valid once made ---------------------------------------------------------------------------------------------------

MALFORMED = {
    "an image is a path": (lambda: Prompt("?", ["image.png"]), "HxWx3 uint8 RGB, got str"),
    "an image is grey": (lambda: Prompt("?", [RED[..., 0]]), r"got uint8 \(64, 64\)"),
    "an image is a float": (lambda: Prompt("?", [RED / 255]), "got float64"),
    "an image is empty": (lambda: Prompt("?", [RED[:0]]), "is empty"),
    "the text is none": (lambda: Prompt(None), "NoneType; give a string"),
    "the text is bytes": (lambda: Turn("user", b"a"), "bytes; give a string"),
    "half a character": (lambda: Prompt("a\ud83d"), "half of a character"),
    "an image of the history": (lambda: Turn("user", "?", [RED.tolist()]), "got list"),
    "a picture of a clip": (lambda: Clip([RED, "b.png"], [0, 1]), "a picture of a clip must be"),
    "times of a clip missing": (lambda: Clip([RED, RED], [0.0]), "one for each picture"),
    "times of a clip backwards": (lambda: Clip([RED, RED], [1.0, 0.5]), "run backwards"),
    "times of a clip not finite": (lambda: Clip([RED, RED], [0.0, float("nan")]), "finite"),
    "a clip of two sizes": (lambda: Clip([RED, RED[:32]], [0.0, 1.0]), "differ in size"),
    "a clip is pictures": (lambda: Prompt("?", clip=[RED, RED]), "give a Clip"),
    "a role": (lambda: Turn("system", "be kind"), "user or assistant"),
    "an assistant shows": (lambda: Turn("assistant", "look", [RED]), "only the user's may"),
    "history begins with the answer": (
        lambda: Prompt("?", history=[ASSISTANT, USER]),
        "turn 1 .* must be a Turn of 'user'",
    ),
    "two questions in a row": (lambda: Prompt("?", history=[USER, USER]), "turn 2 .* must be a Turn of 'assistant'"),
    "history ends with a question": (lambda: Prompt("?", history=[USER]), "ends with the user's turn"),
    "history is text": (lambda: Prompt("?", history=["hello", "hi"]), "turn 1 of the history is of 'str'"),
    "a schema is text": (lambda: Prompt("?", schema="{}"), "JSON schema as a dict"),
    "no token": (lambda: Limits(0, 30.0, 4), "max_new_tokens must be 1 or more"),
    "no time": (lambda: Limits(9, 0.0, 4), "deadline_s above 0"),
    "time is no number": (lambda: Limits(9, float("nan"), 4), "deadline_s above 0"),
    "every object is a repeat": (lambda: Limits(9, 30.0, 1), "repeat_limit 2 or more"),
}


@pytest.mark.parametrize("make, words", MALFORMED.values(), ids=MALFORMED)
def test_what_cannot_be_asked_cannot_be_made(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


def test_a_prompt_is_the_last_turn_of_its_chat():
    clip = Clip([RED, RED], [0.0, 0.5])
    prompt = Prompt("c", [RED], clip, [USER, ASSISTANT])
    assert [(turn.role, turn.text, len(turn.images)) for turn in prompt.turns] == [
        ("user", "a", 1),
        ("assistant", "b", 0),
        ("user", "c", 1),
    ]
    assert prompt.turns[-1].clip is clip and prompt.images[0] is RED


def test_limits_are_those_of_the_configuration():
    assert Limits.of(GenerationConfig(max_new_tokens=7, deadline=2.5, repeat_limit=3)) == Limits(7, 2.5, 3)


# -- chats -------------------------------------------------------------------------------------------------------------

# As the templates of thinking models do: no thoughts of earlier turns, and space around words taken off.
FORGETS_THOUGHTS = """\
{%- for message in messages -%}
{%- set ns = namespace(text='') -%}
{%- if message.content is string %}{% set ns.text = message.content %}{% else %}
{%- for part in message.content -%}
{%- if part.type == 'image' %}{% set ns.text = ns.text + '<|vision_start|><|image_pad|><|vision_end|>' %}
{%- elif part.type == 'video' %}{% set ns.text = ns.text + '<|vision_start|><|video_pad|><|vision_end|>' %}
{%- else %}{% set ns.text = ns.text + part.text %}{% endif -%}
{%- endfor -%}{% endif -%}
{%- if message.role == 'assistant' and '</think>' in ns.text %}
{%- set ns.text = ns.text.split('</think>')[-1].lstrip('\\n') %}{% endif -%}
<|im_start|>{{ message.role }}\n{{ ns.text | trim }}<|im_end|>\n
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif -%}
"""
VIDEO_RULE = {
    "size": {"shortest_edge": 4096, "longest_edge": 256 * 192},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("chats")
    plain = tiny_checkpoint(root / "plain")
    (plain / "video_preprocessor_config.json").write_text(json.dumps(VIDEO_RULE))
    thinking = Path(shutil.copytree(plain, root / "thinking"))
    (thinking / "chat_template.jinja").write_text(FORGETS_THOUGHTS)
    return {"plain": plain, "thinking": thinking, "embedded": embedded_model_dir()}


WORDS = st.text(max_size=12) | st.sampled_from(
    [
        "杯子在右上角",
        "<think>",
        "hm</think>\n\nyes",
        " \n",
        "\ue000",
        "\ue000\ue001",
        "\ue002",
        "</think>",
        "<tool_call>",
    ]
)


@pytest.mark.parametrize("which", ["plain", "thinking", "embedded"])
@given(st.lists(WORDS, min_size=1, max_size=7).filter(lambda texts: len(texts) % 2))
@settings(deadline=None, max_examples=80)
def test_any_chat_has_the_official_tokens(models, which, texts):
    turns = [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    prompt = Prompt(turns[-1].text, history=turns[:-1])
    chat = [Message(turn.role, turn.text) for turn in turns]
    assert ChatTokens(models[which]).encode(chat) == official_inputs(models[which], prompt)["input_ids"][0].tolist()


@pytest.mark.parametrize("which", ["plain", "thinking", "embedded"])
@given(
    st.lists(
        st.tuples(WORDS, st.lists(st.sampled_from([(64, 64), (33, 90), (120, 40)]), max_size=2), st.booleans()),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_pictures_of_any_chat_stand_where_the_official_ones_do(models, which, asked, text_first):
    turns = []
    for number, (text, sizes, with_clip) in enumerate(asked):
        images = [np.full((h, w, 3), 40 * number, np.uint8) for w, h in sizes]
        clip = Clip([RED] * 3, [number, number + 0.5, number + 1.04]) if with_clip and which != "embedded" else None
        turns += [Turn("user", text, images, clip), Turn("assistant", f"第{number}个")]
    asked = turns[-2]
    prompt = Prompt(asked.text, asked.images, asked.clip, turns[:-2], text_first=text_first)
    ours = Preparation(models[which])(prompt)
    assert ours.ids.tolist() == official_inputs(models[which], prompt)["input_ids"][0].tolist()


@given(
    st.lists(st.sampled_from(["<|image_pad|>", "<|im_end|>", "<|im_start|>", "<|", "a", "\ue000", "|>"]), max_size=9)
)
def test_no_text_of_a_chat_becomes_a_control_token(models, parts):
    tokens, text = ChatTokens(models["plain"]), "".join(parts)
    chat = [Message("user", text, [2]), Message("assistant", text), Message("user", text, [3])]
    plain = [Message("user", "x", [2]), Message("assistant", "x"), Message("user", "x", [3])]
    ids = tokens.encode(chat)
    for token in (tokens.image_id, *tokens.stop_ids):
        assert ids.count(token) == tokens.encode(plain).count(token)
    said = b"".join(map(tokens.bytes_of, ids)).decode()
    assert said == f"user\n{text}\nassistant\n{text}\nuser\n{text}\nassistant\n"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[-1].content[-1].text }}<|im_end|>",
        "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content[-1].text }}",
        "{% for m in messages | reverse %}{{ m.content[-1].text }}{% endfor %}",
    ],
    ids=["the last turn alone", "refuses", "backwards"],
)
def test_a_template_without_turns_is_asked_without_history(models, tmp_path, template):
    model = Path(shutil.copytree(models["plain"], tmp_path / "model"))
    (model / "chat_template.jinja").write_text(template)
    tokens = ChatTokens(model)
    assert tokens.encode([Message("user", "mug")])
    with pytest.raises(InvalidInput, match="keeps no earlier turns.*ask without one"):
        tokens.encode([Message("user", "a"), Message("assistant", "b"), Message("user", "c")])


def test_a_template_that_loses_a_picture_of_an_earlier_turn_is_named(models, tmp_path):
    model = Path(shutil.copytree(models["plain"], tmp_path / "model"))
    lossy = "{% for m in messages %}<|im_start|>{{ m.content[-1].text }}{% endfor %}"
    (model / "chat_template.jinja").write_text(lossy)
    with pytest.raises(WrongModel, match="0 <.image_pad.> of 1 images"):
        Preparation(model)(Prompt("c", history=[USER, ASSISTANT]))


def test_a_model_without_a_rule_for_clips_says_what_to_do():
    with pytest.raises(InvalidInput, match="embedded cannot be shown a clip.*send the clip's pictures as images"):
        Preparation(embedded_model_dir())(Prompt("?", clip=Clip([RED, RED], [0.0, 1.0])))


# -- what does not fit -----------------------------------------------------------------------------------------------

CAMERAS = [((4000, 3000), 1), ((3840, 2160), 2)]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The embedded model's files with the limits of the published ones: images of up to 16 megapixels."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(embedded_model_dir(), folder, dirs_exist_ok=True)
    rules = json.loads((folder / "preprocessor_config.json").read_text())
    rules["size"] = {"shortest_edge": 65536, "longest_edge": 16777216}
    (folder / "preprocessor_config.json").write_text(json.dumps(rules))
    return folder


def photo(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_a_prompt_that_cannot_fit_is_refused_before_a_pixel_is_computed(published, monkeypatch):
    prepare = Preparation(published, 0, 16777216)
    monkeypatch.setattr(pixels, "resize_bicubic", lambda *_: pytest.fail("a pixel was computed"))
    with pytest.raises(EngineError, match=r"the prompt takes 1[12]\d\d\d tokens .*holds 8192.*generation.max_pixels"):
        prepare(Prompt("?", [photo(4000, 3000)]), 8192, 1024)


@pytest.mark.parametrize("size, count", CAMERAS, ids=str)
def test_a_large_camera_works_by_default_and_the_log_says_how_it_is_seen(published, caplog, size, count):
    prepare = Preparation(published)
    with caplog.at_level(logging.WARNING):
        prepared = [prepare(Prompt("What is it?", [photo(*size)] * count), 4096, 1024) for _ in range(2)][1]
    assert 1000 * count < prepared.visual_tokens and len(prepared.ids) + 1024 <= 4096
    _, rows, columns = prepared.grid[0].tolist()
    assert abs(columns / rows - size[0] / size[1]) < 0.1, "as wide for its height as it was"
    (said,) = [r.getMessage() for r in caplog.records]
    assert f"{size[0]}x{size[1]} is shown to the model as {16 * columns}x{16 * rows}" in said and "max_pixels" in said


def test_images_that_fit_are_shown_as_the_checkpoint_wants_them(published, caplog):
    plain, bounded = Preparation(published), Preparation(published)
    prompt = Prompt("What is it?", [photo(640, 480)])
    assert (plain(prompt).grid == bounded(prompt, 4096, 1024).grid).all() and not caplog.records


def test_no_image_is_made_a_stamp_to_fit(published):
    prepare = Preparation(published)
    with pytest.raises(EngineError, match="send fewer images"):
        prepare(Prompt("?" * 20, [photo(4000, 3000)] * 40), 2048, 512)


def test_engines_of_fixed_shapes_bound_an_image(published):
    prepare = Preparation(published, most_area=1 << 20)
    assert prepare(Prompt("?", [photo(4000, 3000)])).visual_tokens <= 1024
