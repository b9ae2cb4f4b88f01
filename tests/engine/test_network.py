"""The network and its preparation against `transformers`: pixels, ids, positions, features, logits, greedy tokens."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import embedded
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from official import OfficialImages, official_inputs, resize
from safetensors.torch import load_file, save_file
from tiny import CONTROL_TOKENS, byte_level_tokenizer, tiny_checkpoint
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as smart_resize_video

from qwen3vl_ros.engine.base import Clip, Prompt, Turn
from qwen3vl_ros.engine.checkpoint import read_checkpoint
from qwen3vl_ros.engine.network.plans import rotary_angles
from qwen3vl_ros.engine.network.sizes import Sizes
from qwen3vl_ros.engine.prompt.pixels import PixelRule
from qwen3vl_ros.engine.prompt.prepare import Preparation, Prepared
from qwen3vl_ros.engine.prompt.resample import resize_bicubic
from qwen3vl_ros.engine.prompt.tokens import ChatTokens, Message
from qwen3vl_ros.engine.torch.network import Network, _place
from qwen3vl_ros.engine.torch.runtime import TorchRuntime
from qwen3vl_ros.types import EngineError, InvalidInput, WrongModel

RELATIVE = 1e-4
IDS = {token: byte_level_tokenizer().token_to_id(token) for token in CONTROL_TOKENS}
CLIP_RULE = {
    "size": {"shortest_edge": 4 * 64 * 64, "longest_edge": 6 * 128 * 96},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
# hidden, inner, layers, heads, kv heads, tied; vision depth, hidden, inner, deepstack (published configurations)
PUBLISHED = {
    "2B": (2048, 6144, 28, 16, 8, True, 24, 1024, 4096, [5, 11, 17]),
    "4B": (2560, 9728, 36, 32, 8, True, 24, 1024, 4096, [5, 11, 17]),
    "8B": (4096, 12288, 36, 32, 8, False, 27, 1152, 4304, [8, 16, 24]),
    "32B": (5120, 25600, 64, 64, 8, False, 27, 1152, 4304, [8, 16, 24]),
}


def picture(seed: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def clip(seed: int, width: int, height: int, times_s) -> Clip:
    return Clip([picture(seed + i, width, height) for i in range(len(times_s))], times_s)


CASES = {
    "text": Prompt("Where is the mug?"),
    "one image": Prompt("Locate the red cube.", [picture(1, 160, 120)]),
    "sizes mixed": Prompt("Was ist anders? é 杯子", [picture(2, 64, 200), picture(3, 200, 70), picture(4, 333, 222)]),
    "clip": Prompt("When?", clip=clip(5, 130, 90, [0.0, 0.5, 1.0, 1.5, 2.04])),
    "all": Prompt(
        "Compare.",
        [picture(6, 96, 96), picture(7, 40, 50)],
        clip(9, 90, 120, [3, 4, 5, 6]),
        [Turn("user", "看这个", clip=clip(8, 64, 64, [0, 0.25])), Turn("assistant", "好的。\n")],
    ),
    "a chat": Prompt(
        "还有几个杯子?",
        [picture(10, 120, 90)],
        history=[
            Turn("user", "Where is the mug?", [picture(11, 64, 64), picture(12, 200, 70)]),
            Turn("assistant", '```json\n[{"bbox_2d": [12, 345, 678, 910], "label": "red mug"}]\n```'),
            Turn("user", "压力表的读数是多少?"),
            Turn("assistant", "1.8 MPa,超过红色警戒线。"),
        ],
    ),
    "a chat, words first": Prompt(
        "And now?",
        [picture(13, 40, 50)],
        history=[Turn("user", "Before", [picture(14, 96, 64)]), Turn("assistant", "")],
        text_first=True,
    ),
}


PIXELS = {"image_": "pixel_values", "video_": "pixel_values_videos"}


def by_kind(prompt: Prompt, prepared: Prepared) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Patches and grid of the images and of the clips, as the reference takes them apart; those that there are."""
    kinds = [k for turn in prompt.turns for k in ["image_"] * len(turn.images) + ["video_"] * bool(turn.clip)]
    patches = np.split(prepared.pixels, np.cumsum(prepared.grid.prod(1))[:-1])
    found = {}
    for kind in sorted(set(kinds)):
        which = [i for i, k in enumerate(kinds) if k == kind]
        found[kind] = np.concatenate([patches[i] for i in which]), prepared.grid[which]
    return found


def published(size: str) -> dict:
    """config.json as the hub has it."""
    hidden, inner, layers, heads, kv_heads, tied, depth, width, vision_inner, deepstack = PUBLISHED[size]
    return dict(
        architectures=["Qwen3VLForConditionalGeneration"],
        model_type="qwen3_vl",
        image_token_id=151655,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        tie_word_embeddings=tied,
        text_config=dict(
            model_type="qwen3_vl_text",
            vocab_size=151936,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=128,
            hidden_act="silu",
            rms_norm_eps=1e-6,
            max_position_embeddings=262144,
            attention_bias=False,
            rope_theta=5000000,
            rope_scaling=dict(mrope_interleaved=True, mrope_section=[24, 20, 20], rope_type="default"),
        ),
        vision_config=dict(
            model_type="qwen3_vl",
            depth=depth,
            hidden_size=width,
            intermediate_size=vision_inner,
            num_heads=16,
            in_channels=3,
            hidden_act="gelu_pytorch_tanh",
            patch_size=16,
            spatial_merge_size=2,
            temporal_patch_size=2,
            out_hidden_size=hidden,
            num_position_embeddings=2304,
            deepstack_visual_indexes=deepstack,
        ),
    )


def slice_of(size: str) -> dict:
    """Two decoder and three vision layers of a published size, with the test's small vocabulary."""
    config = published(size) | {"image_token_id": IDS["<|image_pad|>"], "video_token_id": IDS["<|video_pad|>"]}
    config["text_config"] |= {"vocab_size": 384, "num_hidden_layers": 2}
    config["vision_config"] |= {"depth": 3, "deepstack_visual_indexes": [0, 2]}
    return config


@torch.no_grad()
def randomise(network: Network, seed: int = 0) -> None:
    """Weights that keep activations of size one and say something: every norm and bias counts."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if weight.dim() == 1:
            weight.uniform_(-0.2, 0.2, generator=generator).add_(float(name.endswith("weight")))
        else:
            weight.uniform_(-1, 1, generator=generator).mul_(
                0.3 if "embedding" in name or "places" in name else 2 * weight.shape[1] ** -0.5
            )


def twins(config: dict, seed: int = 0) -> tuple[Network, Qwen3VLForConditionalGeneration]:
    """Our network and the reference on the same memory; weights go through the loader's table of names."""
    with torch.device("meta"):
        network, reference = Network(Sizes.read(config)), Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config))
    if network.sizes.text.inner > 20000:  # 32B: two layers with one MLP keep the test under 4 GB
        first, second = network.text.layers
        second.gate_up, second.down = first.gate_up, first.down
    network.to_empty(device="cpu").requires_grad_(False)
    randomise(network, seed)
    own, views = dict(network.named_parameters(remove_duplicate=False)), {}
    own.setdefault("text.head.weight", own["text.embedding.weight"])
    for name, weight in reference.state_dict().items():
        target, part = _place(name, network.sizes.text)
        views[name] = own[target].data[part or slice(None)].view(weight.shape)
    reference.load_state_dict(views, assign=True)
    # Rotary frequencies are buffers that no checkpoint holds.
    for rotary in (reference.model.visual.rotary_pos_emb, reference.model.language_model.rotary_emb):
        rotary.__init__(rotary.config)
    reference.generation_config.eos_token_id = reference.generation_config.pad_token_id = None
    return network.eval(), reference.eval()


def with_processor(directory: Path) -> Path:
    """Tokenizer, template and pixel rules for a directory."""
    tiny_checkpoint(directory)
    (directory / "video_preprocessor_config.json").write_text(json.dumps(CLIP_RULE))
    return directory


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return with_processor(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def small():
    """The embedded model's size with random weights, and its reference."""
    config = embedded.config(IDS).to_dict() | {"architectures": ["Qwen3VLForConditionalGeneration"]}
    return twins(json.loads(json.dumps(config)))


# -- preparation -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_resizing_is_torchs_bit_for_bit(width, height, columns, rows, seed):
    image = picture(seed, width, height)
    expected = resize(image.transpose(2, 0, 1)[None], rows * 32, columns * 32)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(resize_bicubic(image, columns * 32, rows * 32), expected)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(2, 40), st.integers(10, 16), st.integers(0, 8))
def test_clips_are_resized_as_the_reference_does(width, height, pictures, smallest, span):
    rule = PixelRule(16, 2, 2, 2**smallest, 2 ** (smallest + span), (0.5,) * 3, (0.5,) * 3)
    try:
        expected = smart_resize_video(pictures, height, width, 2, 32, rule.min_area, rule.max_area)[::-1]
    except ValueError:
        with pytest.raises(InvalidInput, match="1:200"):
            rule.resized(width, height, pictures)
    else:
        assert rule.resized(width, height, pictures) == expected


@pytest.mark.parametrize("case", CASES)
def test_preparation_is_the_official_one(directory, small, case):
    prompt = CASES[case]
    ours = Preparation(directory)(prompt)
    official = official_inputs(directory, prompt)
    assert ours.ids.tolist() == official["input_ids"][0].tolist()
    grids = [official[k] for k in ("image_grid_thw", "video_grid_thw") if k in official]
    assert ours.visual_tokens == sum(int(g.prod(1).sum()) // 4 for g in grids)
    for name, (pixels, grid) in by_kind(prompt, ours).items():
        assert grid.tolist() == official[name + "grid_thw"].tolist()
        np.testing.assert_allclose(pixels, official[PIXELS[name]], atol=1e-6)
    positions, _ = small[1].model.get_rope_index(
        official["input_ids"],
        official["mm_token_type_ids"],
        official.get("image_grid_thw"),
        official.get("video_grid_thw"),
    )
    np.testing.assert_array_equal(ours.positions, positions[:, 0])


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=60)
def test_token_ids_are_the_official_ones_for_any_text(directory, prompt):
    tokens = ChatTokens(directory)
    assert (
        tokens.encode([Message("user", prompt)]) == official_inputs(directory, Prompt(prompt))["input_ids"][0].tolist()
    )


def test_a_seam_between_template_and_prompt_does_not_split_words(directory, tmp_path):
    """A tokenizer that joins line breaks, as Qwen's does."""
    from tokenizers import Tokenizer

    with_processor(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    known = content["model"]["vocab"]
    merged = {"Ċ" * 2: max(*known.values(), *(t["id"] for t in content["added_tokens"])) + 1}
    content["model"]["vocab"] |= merged
    content["model"]["merges"].append(["Ċ", "Ċ"])
    content["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = ChatTokens(tmp_path).encode([Message("user", "\nmug")])
    assert merged["ĊĊ"] in ids and ids == official_inputs(tmp_path, Prompt("\nmug"))["input_ids"][0].tolist()


def test_images_are_the_official_ones_where_noise_is_clipped(directory):
    for size in ((100, 300), (90, 641), (640, 480), (40, 50)):
        image = picture(5, *size)
        expected = OfficialImages.from_pretrained(directory)(image, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(PixelRule.read(directory).patches([image])[0], expected, atol=1e-6)


def test_what_is_no_clip_is_refused(directory, tmp_path):
    prepare = Preparation(directory)
    with pytest.raises(InvalidInput, match="one for each picture"):
        Clip([picture(1, 64, 64)], [0.0, 1.0])
    with pytest.raises(InvalidInput, match="run backwards"):
        Clip([picture(1, 64, 64)] * 2, [1.0, 0.5])
    with pytest.raises(InvalidInput, match="send an image instead"):
        prepare(Prompt("?", clip=Clip([picture(1, 64, 64)], [0.0])))
    with pytest.raises(InvalidInput, match="differ in size"):
        prepare(Prompt("?", clip=Clip([picture(1, 64, 64), picture(1, 64, 80)], [0.0, 1.0])))
    tiny_checkpoint(tmp_path)
    (tmp_path / "processor_config.json").write_text("{}")
    with pytest.raises(WrongModel, match="no usable 'patch_size'"):
        Preparation(tmp_path)(Prompt("?", clip=clip(1, 64, 64, [0, 1])))


# -- the network -----------------------------------------------------------------------------------------------------


def assert_close(ours, reference, what: str) -> None:
    """Tensors, arrays or scores."""
    ours, reference = (torch.as_tensor(x.logits() if hasattr(x, "best") else x) for x in (ours, reference))
    error = float((ours - reference).abs().max() / reference.abs().max())
    assert error <= RELATIVE, f"{what}: relative error {error:.2e}"


@torch.inference_mode()
def assert_parity(pair, prepare: Preparation, case, answer_tokens: int, draft: int = 4) -> list[int]:
    """Features, DeepStack features, logits and greedy tokens of one case; returns the answer."""
    network, reference = pair
    given = prepare(case)
    runtime = TorchRuntime(network, len(given.ids) + answer_tokens + draft)
    features = runtime.encode(given.pixels, given.grid) if len(given.grid) else None
    official = {
        "input_ids": torch.from_numpy(given.ids)[None],
        "attention_mask": torch.ones(1, len(given.ids), dtype=torch.int64),
    }
    official["mm_token_type_ids"] = (official["input_ids"] == prepare.tokens.image_id).int() + 2 * (
        official["input_ids"] == prepare.tokens.video_id
    ).int()
    grid = torch.from_numpy(given.grid)
    if features is not None:
        seen = reference.model.visual(torch.from_numpy(given.pixels), grid_thw=grid)
        assert_close(features.merged, seen.pooler_output, "vision features")
        assert len(features.deep) == len(seen.deepstack_features) > 0
        for index, (ours, theirs) in enumerate(zip(features.deep, seen.deepstack_features)):
            assert_close(ours, theirs, f"DeepStack {index}")
    for kind, (pixels, of_kind) in by_kind(case, given).items():
        official |= {PIXELS[kind]: torch.from_numpy(pixels), f"{kind}grid_thw": torch.from_numpy(of_kind)}
    out = reference.generate(
        **official, do_sample=False, max_new_tokens=answer_tokens, output_logits=True, return_dict_in_generate=True
    )
    expected = out.sequences[0, len(given.ids) :].tolist()
    logits = torch.from_numpy(runtime.prefill(given.ids, features, given.positions, keep=3).logits())
    whole = reference(**official).logits[0, -3:]
    assert_close(logits, whole, "prompt logits")

    rng = np.random.default_rng(0)
    said = [int(logits[-1].argmax())]
    taken_back = 0
    while len(said) < answer_tokens:
        guess = [
            t if rng.random() < 0.7 else int(rng.integers(0, 256))
            for t in expected[len(said) :][: int(rng.integers(0, draft))]
        ]
        scores = runtime.step([said[-1], *guess])
        logits, best = torch.from_numpy(scores.logits()), scores.best()
        assert best[0] == logits.argmax(-1).tolist()
        assert best[1] == pytest.approx(logits.log_softmax(-1).amax(-1).tolist(), abs=1e-5)
        right = 0
        for at, row in enumerate(logits):
            assert_close(row, out.logits[len(said)][0], f"logits of token {len(said)}")
            said.append(int(row.argmax()))
            right += 1
            if at == len(guess) or guess[at] != said[-1] or len(said) == answer_tokens:
                break
        runtime.rollback(len(guess) + 1 - right)
        taken_back += len(guess) + 1 - right
    assert said == expected and runtime.length == len(given.ids) + len(said) - 1
    return said + [-1] * bool(taken_back)


def test_embedded_size_says_what_the_reference_says(small, directory):
    prepare = Preparation(directory)
    answers = [assert_parity(small, prepare, case, 24) for case in CASES.values()]
    assert max(len(set(a)) for a in answers) >= 8, "no answer varied enough to compare"
    assert any(a[-1] == -1 for a in answers), "nothing was taken back"


@pytest.mark.parametrize("size", PUBLISHED)
def test_two_layers_of_each_published_size(size, directory):
    pair = twins(slice_of(size))
    assert_parity(
        pair,
        Preparation(directory),
        Prompt("Go?", [picture(1, 64, 96), picture(2, 70, 64)], clip(3, 64, 64, [0, 1, 2])),
        6,
    )


@pytest.mark.parametrize("which", ["embedded", "2B", "32B"])
def test_every_frequency_turns_with_its_axis(which):
    """Far positions, because near ones hardly turn the slow frequencies, and logits would not tell."""
    config = json.loads(json.dumps(embedded.config(IDS).to_dict())) if which == "embedded" else published(which)
    positions = np.random.default_rng(0).integers(0, 4000, (3, 50))
    angles = rotary_angles(Sizes.read(config).text, positions)
    rotary = Qwen3VLTextRotaryEmbedding(Qwen3VLConfig(**config).text_config)
    for ours, theirs in zip(angles, rotary(torch.zeros(1), torch.from_numpy(positions)[:, None])):
        torch.testing.assert_close(torch.from_numpy(ours), theirs[0], atol=5e-4, rtol=0)


def test_a_prompt_in_parts_is_the_whole_prompt(small, directory):
    """Prefix reuse: the text before an image keeps its place, another image follows, and any rollback finds its position."""
    prepare, (network, _) = Preparation(directory), small
    first, second = (prepare(Prompt("Locate the red cube.", [picture(seed, 160, 120)])) for seed in (1, 2))
    fresh = TorchRuntime(network, 200)
    expected = fresh.prefill(second.ids, fresh.encode(second.pixels, second.grid), second.positions)
    runtime = TorchRuntime(network, 200)
    runtime.prefill(first.ids, runtime.encode(first.pixels, first.grid), first.positions, keep=0)
    runtime.step([5, 6, 7])
    shared = int(np.flatnonzero(second.ids == prepare.tokens.image_id)[0])
    runtime.rollback(runtime.length - shared)
    assert runtime.next_position == shared
    features = runtime.encode(second.pixels, second.grid)
    assert_close(runtime.prefill(second.ids[shared:], features, second.positions[:, shared:]), expected, "second image")
    assert runtime.next_position == fresh.next_position < runtime.length
    apart = np.concatenate([fresh.step([9]).logits(), fresh.step([10]).logits()])
    assert_close(runtime.step([9, 10]), apart, "steps after it")


def test_a_captured_step_computes_what_a_step_computes(small):
    """What a CUDA graph records, run as it is: fixed inputs, a span longer than the sequence, its own choice of tokens."""
    from qwen3vl_ros.engine.torch.runtime import _CapturedStep

    plain, fixed = TorchRuntime(small[0], 64), TorchRuntime(small[0], 64)
    for runtime in (plain, fixed):
        runtime.prefill([1, 2, 3])
    captured = _CapturedStep(small[0].text, fixed._cache, 2, 48)
    for ids in ([4, 5], [6, 7]):
        expected = plain.step(ids)
        positions = fixed._places(2)
        scores = captured.run(ids, fixed.length, *rotary_angles(small[0].sizes.text, positions))
        fixed._append(positions)
        assert_close(scores, expected, "captured step")
        assert scores.best()[0] == expected.best()[0]


ORDERS = {"heads innermost": (0, 2, 1, 3), "backwards": (3, 2, 1, 0)}  # of a result in memory, by dimension


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_attention_may_lay_out_its_result_as_it_likes(small, directory, monkeypatch, order):
    """torch's kernels differ in that, by device, precision and mask; the values are what counts. Seeing, reading and steps, captured too."""
    from qwen3vl_ros.engine.torch.runtime import _CapturedStep

    given = Preparation(directory)(Prompt("?", [picture(1, 96, 64), picture(2, 64, 64)]))
    network, (attend, laid_out) = small[0], (F.scaled_dot_product_attention, [])

    def otherwise(*args, **options):
        seen = attend(*args, **options)
        back = [order.index(i) for i in range(4)]
        laid_out.append(seen.permute(order).contiguous().permute(back))
        assert laid_out[-1].equal(seen)
        return laid_out[-1]

    def whole() -> list[np.ndarray]:
        runtime = TorchRuntime(network, 200)
        scores = [runtime.prefill(given.ids, runtime.encode(given.pixels, given.grid), given.positions)]
        scores += [runtime.step(ids) for ids in ([5], [6, 7, 8])]
        scores.append(runtime.prefill([9, 10]))
        captured = _CapturedStep(network.text, runtime._cache, 3, 190)
        angles = rotary_angles(network.sizes.text, runtime._places(3))
        scores.append(captured.run([11, 12, 13], runtime.length, *angles))
        return [s.logits() for s in scores]

    expected = whole()
    monkeypatch.setattr(F, "scaled_dot_product_attention", otherwise)
    for ours, plain in zip(whole(), expected, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
    assert sum(not seen.is_contiguous() for seen in laid_out) > len(laid_out) / 2


@pytest.mark.parametrize("fails", ["fused", "plain", "neither"])
def test_a_capture_that_fails_leaves_a_runtime_that_captures(small, monkeypatch, fails):
    """Captures into a pool end where its last graph did, as on a GPU, where cuBLAS's workspace outlives it."""
    from qwen3vl_ros.engine.torch import runtime as module

    graphs: dict[tuple[int, int], int] = {}  # by pool, as many as there are
    failing: set[bool] = {fails == "fused"} - {False}

    class Captured(module._CapturedStep):
        def run(self, *inputs):
            if not hasattr(self, "captured"):
                if graphs.get(self._pool) == 0:
                    raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
                graphs[self._pool] = graphs.get(self._pool, 0) + 1
                self.captured = weakref.finalize(self, lambda pool=self._pool: graphs.update({pool: graphs[pool] - 1}))
                if (self._fused is not None) in failing:
                    raise RuntimeError("out of registers")
            return super().run(*inputs)

    class Fused:
        def __init__(self, text, overlap, tiles):
            self._text = text

        def __call__(self, inputs, cache, span):
            plain = module._CapturedStep(self._text, cache, 1, span)
            plain._inputs = inputs
            return plain._compute()

    handles = itertools.count()
    monkeypatch.setattr(module, "_new_pool", lambda device: (next(handles), 0))
    monkeypatch.setattr(module, "_CapturedStep", Captured)
    monkeypatch.setitem(sys.modules, "qwen3vl_ros.engine.torch.fused", SimpleNamespace(FusedStep=Fused))
    runtime = TorchRuntime(small[0], 64)
    runtime._captures = True
    if fails == "fused":
        with pytest.raises(RuntimeError, match="registers"):
            runtime.fuse()
    else:
        runtime.fuse()
    assert runtime.length == 0 and (runtime._fused is None) == (fails == "fused")
    expected = TorchRuntime(small[0], 64)
    for r in (runtime, expected):
        r.prefill([1, 2, 3])
    if fails == "plain":
        runtime.step([4]), runtime.rollback(1)
        failing.add(False)
        with pytest.raises(RuntimeError, match="registers"):
            runtime.step([4, 5])
        failing.clear()
        assert runtime.length == 3
    for ids in ([4], [5, 6], [7]):
        assert_close(runtime.step(ids), expected.step(ids).logits(), "a step after it")


@pytest.mark.parametrize(
    "capability, failing, tried, said",
    [
        ((9, 0), (), [True], "steps of one token are fused and overlap"),
        ((9, 0), (True,), [True, False], "steps of one token are fused, ready"),
        ((9, 0), (True, False), [True, False], "steps are not fused, and slower for it: no such instruction"),
        ((8, 7), (), [False], "steps of one token are fused, ready"),
        ((12, 0), (), [False], "steps of one token are fused, ready"),
    ],
)
def test_fused_steps_overlap_where_that_was_measured(monkeypatch, capability, failing, tried, said):
    from qwen3vl_ros.engine.torch import load

    ways = []

    def fuse(overlap: bool) -> float:
        ways.append(overlap)
        if overlap in failing:
            raise RuntimeError("no such instruction")
        return 1.0

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert load._fused(SimpleNamespace(device=torch.device("cuda"), fuse=fuse)).startswith(said)
    assert ways == tried


def test_text_needs_no_positions_and_an_interrupted_pass_leaves_no_trace(small):
    runtime = TorchRuntime(small[0], 16)
    expected = runtime.prefill([1, 2, 3])

    class Stop(Exception):
        pass

    def stop():
        raise Stop

    runtime.between_layers = stop
    with pytest.raises(Stop):
        runtime.prefill([4, 5])
    assert runtime.length == 3 and runtime.next_position == 3
    runtime.rollback(1)
    assert_close(runtime.step([3]), expected, "after an interruption")


def test_what_does_not_fit_is_refused(small, directory):
    runtime = TorchRuntime(small[0], 8)
    given = Preparation(directory)(Prompt("?", [picture(1, 64, 64)]))
    with pytest.raises(EngineError, match="do not fit a cache of 8"):
        runtime.prefill(range(9))
    with pytest.raises(InvalidInput, match="visual tokens and the features are of 0"):
        runtime.prefill(given.ids, None, given.positions)
    with pytest.raises(InvalidInput, match="needs 16 patches, got 15"):
        runtime.encode(given.pixels[:15], given.grid)
    with pytest.raises(InvalidInput, match="cannot take back 1 of 0"):
        runtime.rollback(1)
    with pytest.raises(InvalidInput, match="at least one token"):
        runtime.step([])
    with pytest.raises(InvalidInput, match="does not fit 2 tokens"):
        runtime.prefill([1, 2], keep=3)


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", PUBLISHED)
def test_every_weight_of_a_published_checkpoint_has_its_place(size):
    """At full size, without memory: names and shapes of the reference fill our network exactly."""
    config = published(size)
    with torch.device("meta"):
        network, reference = Network(Sizes.read(config)), Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config))
    own, filled = dict(network.named_parameters()), {}
    for name, weight in reference.state_dict().items():
        if name == "lm_head.weight" and network.sizes.text.tied:
            continue
        target, part = _place(name, network.sizes.text)
        assert own[target].data[part or slice(None)].numel() == weight.numel(), name
        filled[target] = filled.get(target, 0) + weight.numel()
    assert filled == {name: weight.numel() for name, weight in own.items()}


def test_loads_one_file_and_shards_in_any_precision(tmp_path, directory):
    single = directory
    sharded = Path(shutil.copytree(single, tmp_path / "sharded"))
    weights = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = sorted(weights)
    files = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({n: weights[n] for n in part}, sharded / file)
    index = {"weight_map": {n: file for file, part in files.items() for n in part}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    reference = Qwen3VLForConditionalGeneration.from_pretrained(single, dtype=torch.float32).eval()
    reference.generation_config.eos_token_id = None
    for place in (single, sharded):
        network = Network.load(read_checkpoint(place), "cpu", torch.float32)
        assert_parity((network, reference), Preparation(directory), CASES["one image"], 12)
    half = Network.load(read_checkpoint(single), "cpu", torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert TorchRuntime(half, 8).prefill([1, 2, 3], keep=2).logits().shape == (2, half.sizes.text.vocabulary)


def test_the_embedded_models_files_give_the_reference(tmp_path):
    from qwen3vl_ros.engine import embedded_model_dir
    from qwen3vl_ros.types import ModelNotFound

    try:
        place = embedded_model_dir()
    except ModelNotFound:
        pytest.skip("model/embedded is not in this tree")
    network = Network.load(read_checkpoint(place), "cpu", torch.float32)
    reference = Qwen3VLForConditionalGeneration.from_pretrained(place, dtype=torch.float32).eval()
    reference.generation_config.eos_token_id = None
    prompt = 'Locate every instance that belongs to the following categories: "cube, ball". Report bbox coordinates in JSON format.'
    gradient = np.indices((480, 640)).sum(0)[..., None].repeat(3, 2).astype(np.uint8)
    assert_parity((network, reference), Preparation(place), Prompt(prompt, [gradient]), 40)


@pytest.mark.parametrize(
    "path, value, why",
    [
        (("text_config", "num_experts"), 128, "num_experts is 128"),
        (("text_config", "num_local_experts"), 128, "num_experts is 128"),
        (("architectures",), ["Qwen3VLMoeForConditionalGeneration"], "num_experts is 'some'"),
        (("quantization_config",), {"quant_method": "fp8"}, "'fp8'"),
        (("text_config", "rope_scaling", "rope_type"), "yarn", "'yarn'"),
        (("text_config", "rope_scaling", "mrope_interleaved"), False, "mrope_interleaved is False"),
        (("text_config", "hidden_act"), "gelu", "'gelu'"),
        (("vision_config", "hidden_act"), "silu", "'silu'"),
        (("text_config", "attention_bias"), True, "attention_bias is True"),
        (("text_config", "hidden_size"), None, "no usable"),
        (("text_config", "hidden_size"), "2048", "hidden is '2048'"),
        (("text_config", "num_hidden_layers"), -1, "layers is -1"),
        (("text_config", "rms_norm_eps"), float("nan"), "norm_eps is nan"),
        (("text_config", "num_key_value_heads"), 3, "no key-value heads evenly"),
        (("vision_config", "depth"), 6, "blocks that it lacks"),
        (("vision_config", "num_position_embeddings"), -4, "config.json"),
        (("image_token_id",), 10**9, "outside the vocabulary"),
    ],
    ids=lambda v: v[-1] if isinstance(v, tuple) else None,
)
def test_configurations_it_does_not_compute_are_refused(path, value, why):
    config = published("2B")
    at = config
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    if value is None:
        del at[path[-1]]
    with pytest.raises(WrongModel, match=why):
        Sizes.read(config)


@pytest.mark.parametrize(
    "damage, why",
    [
        (
            lambda w: w.pop("model.language_model.layers.1.self_attn.k_proj.weight"),
            "1 weights are missing or incomplete",
        ),
        (lambda w: w.update({"model.visual.extra.weight": torch.zeros(2)}), "has no place"),
        (
            lambda w: w.update({"model.language_model.norm.weight": torch.zeros(7)}),
            r"is \(7,\) and config.json asks for \(48,\)",
        ),
    ],
    ids=["missing", "extra", "shape"],
)
def test_weights_that_do_not_fit_are_refused(directory, tmp_path, damage, why):
    copy = Path(shutil.copytree(directory, tmp_path / "damaged"))
    weights = load_file(copy / "model.safetensors")
    damage(weights)
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(WrongModel, match=why):
        Network.load(read_checkpoint(copy), "cpu", torch.float32)


def test_runs_without_transformers(directory):
    import subprocess

    script = (
        "import sys; sys.modules.update(dict.fromkeys(('transformers', 'PIL', 'torchvision')))\n"
        "import numpy as np, torch\n"
        "from pathlib import Path\n"
        "from qwen3vl_ros.engine.checkpoint import read_checkpoint\n"
        "from qwen3vl_ros.engine.torch.network import Network\n"
        "from qwen3vl_ros.engine.base import Prompt\n"
        "from qwen3vl_ros.engine.prompt.prepare import Preparation\n"
        "from qwen3vl_ros.engine.torch.runtime import TorchRuntime\n"
        "given = Preparation(Path(sys.argv[1]))(Prompt('mug', [np.zeros((90, 70, 3), np.uint8)]))\n"
        "runtime = TorchRuntime(Network.load(read_checkpoint(Path(sys.argv[1])), 'cpu', torch.float32), 99)\n"
        "scores = runtime.prefill(given.ids, runtime.encode(given.pixels, given.grid), given.positions)\n"
        "assert np.isfinite(runtime.step(scores.best()[0]).logits()).all()"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)], cwd=root, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
