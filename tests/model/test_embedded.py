"""The embedded model's making: labels stay true, answers parse back, and the batched training pass is the official one."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import data
import embedded
import evaluate
import targets
import tasks
import text

from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Detect, Point
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.types import Generation, View


@pytest.fixture(scope="module")
def samples() -> list[data.Sample]:
    with SimCamera(*data.VIEW_SIZE, quality="fast") as camera:
        return [data.sample_of(camera.render(sample_scene(s, gauge=s % 3 == 0), depth=False)) for s in range(30, 42)]


def boxes_of_pixels(sample):
    for k, thing in enumerate(sample.things):
        ys, xs = np.nonzero(sample.labels == k)
        if len(xs) > 30 and thing.visibility > 0:
            yield thing, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_augmented_boxes_are_those_of_the_augmented_pixels(samples):
    rng, seen = np.random.default_rng(0), 0
    for sample in samples:
        for _ in range(4):
            changed = data.augment(sample, rng)
            assert changed.rgb.shape == (224, 320, 3) and changed.rgb.dtype == np.uint8
            for thing, box in boxes_of_pixels(changed):
                assert (
                    np.abs(np.subtract(thing.box_xyxy_px, box)).max() <= 2.5
                )  # a pointed corner can fall between the pixels kept
                assert 0 < thing.visibility <= 1
                seen += 1
    assert seen > 100


def test_a_crop_never_shows_more_of_a_thing_than_there_was(samples):
    rng = np.random.default_rng(1)
    for sample in samples:
        for before, after in zip(sample.things, data.augment(sample, rng).things):
            assert after.visibility <= before.visibility + 1e-9


def test_split_seeds_are_disjoint_and_apart_from_evaluation():
    ranges = [range(first, first + data.SEEDS_PER_SPLIT) for first in (*data.SPLIT_SEEDS.values(), evaluate.FIRST_SEED)]
    for i, a in enumerate(ranges):
        assert a.start >= 1_000_000, "below a million is the demo's"
        assert all(a.stop <= b.start or b.stop <= a.start for b in ranges[i + 1 :])


def test_dense_targets_name_the_thing_under_the_token(samples):
    for sample in map(data.plain, samples):
        dense = targets.dense_targets(sample, (7, 10))
        for thing, _ in boxes_of_pixels(sample):
            if thing.visibility < targets.MIN_VISIBILITY:
                continue
            kinds = {data.KIND_IDS[t.kind] for t in sample.things}
            x0, y0, x1, y1 = thing.box_xyxy_px
            cell = min(int((y0 + y1) / 64), 6) * 10 + min(int((x0 + x1) / 64), 9)
            assert dense["anchor"][cell] == 1 and dense["kind"][cell] in kinds
        assert np.allclose(dense["places"][dense["kind"] > 0].sum(-1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def dials(tmp_path_factory) -> data.Views:
    folder = tmp_path_factory.mktemp("dials")
    with SimCamera(*data.VIEW_SIZE, quality="fast") as camera:
        data.render_shard(camera, range(1_000_002, 1_000_032, 6), folder / "train_00000.npz", "fast")
    return data.Views(folder, "train")


def test_a_new_reading_is_painted_as_the_renderer_would_have_drawn_it(dials):
    """The same scene rendered with the same dial: what a repaint leaves differs by light and edges alone."""
    rng = np.random.default_rng(3)
    with SimCamera(*data.VIEW_SIZE, quality="fast") as camera:
        for i in range(len(dials)):
            before, scene = dials[i], sample_scene(1_000_002 + 6 * i, gauge=True)
            sample = dials._faces[i].with_new_reading(before, rng)
            ((index, said),) = sample.dials.items()
            drawn = replace(scene.gauge, **{k: said[k] for k in ("value", "minimum", "maximum", "unit")})
            truths = [
                camera.render(replace(scene, gauge=replace(drawn, needle_colour=c)), depth=False).rgb
                for c in ("red", "black")
            ]
            dial = sample.labels == index
            assert (sample.rgb[~dial] == before.rgb[~dial]).all()
            off = lambda a, b: np.abs(a[dial].astype(float) - b[dial]).mean()  # noqa: E731
            assert min(off(sample.rgb, t) for t in truths) < 0.7 * off(before.rgb, truths[0])


def test_the_tip_stays_on_the_needle_in_crops_and_mosaics(dials):
    rng, seen = np.random.default_rng(4), 0
    for sample in [data.augment(dials.draw(rng), rng) for _ in range(30)] + [dials.mosaic(rng) for _ in range(5)]:
        assert sample.rgb.shape == (224, 320, 3)
        for index, said in sample.dials.items():
            if sample.things[index].visibility < 0.9:
                continue
            ys, xs = np.nonzero(sample.labels == index)
            right, down = np.array(said["tip_px"]) - (xs.mean(), ys.mean())
            fraction = (said["value"] - said["minimum"]) / (said["maximum"] - said["minimum"])
            # The needle turns clockwise from lower left; the view is oblique, and the foot draws the middle down.
            assert np.cos(np.arctan2(-down, right) - np.deg2rad(225 - 270 * fraction)) > 0.6
            x, y = map(int, said["tip_px"])
            assert sample.labels[y, x] == index
            seen += 1
    assert seen > 40


def test_a_mosaic_teaches_its_dials_and_nothing_else(dials):
    sample = dials.mosaic(np.random.default_rng(6))
    dense = targets.dense_targets(sample, (7, 10))
    assert (dense["kind"] == -1).all() and (dense["name"] == 0).all()
    on_dial = dense["scale"] >= 0
    assert {*dense["owner"][on_dial]} == {*range(6)}
    for index, said in sample.dials.items():
        mine = on_dial & (dense["owner"] == index)
        fraction = (said["value"] - said["minimum"]) / (said["maximum"] - said["minimum"])
        assert (np.abs(dense["reading"][mine].argmax(1) - fraction * 100) <= 1).all()
        assert (np.abs(dense["tip"][mine].argmax(2) - np.array(said["tip_px"]) / (3.2, 2.24)) <= 1).all()


LANGUAGES = pytest.mark.parametrize("language", tasks.LANGUAGES.values(), ids=tasks.LANGUAGES)


@LANGUAGES
def test_names_in_a_prompt_are_looked_up_where_they_end(samples, language):
    rng, packer = np.random.default_rng(5), text.PackedText(256, 70, (7, 10))
    names, english = 0, {said: word for word, said in language.words.items()}
    for sample in map(data.plain, samples):
        asker = tasks.Asker(sample, rng, language)
        for q in filter(None, (asker.ask() for _ in range(40))):
            tokens, weights, said_of, found = packer.pair(q)
            assert len(tokens) == len(weights) == len(said_of)
            assert len(found) == sum(things is not None for _, things in q.mentions)
            for (at, things), (name, _) in zip(sorted(found.items()), (m for m in q.mentions if m[1] is not None)):
                written = text.tokenizer().decode(tokens[: at + 1], skip_special_tokens=False)
                assert written.endswith(name) and weights[at] == 0
                assert said_of[at] == sum(1 << i for i in things)
                words = name.removesuffix("s").split(language.joint)
                meant = {english.get(word, word) for word in words} - {"object"}
                assert all(meant <= {sample.things[i].kind, sample.things[i].colour} for i in things)
                names += 1
    assert names > 200


def answer_of(text_, tokens=1):
    return Generation(text_, (0,), np.zeros(1, np.float32), (len(text_),), "stop")


@LANGUAGES
def test_every_answer_is_read_back_by_the_package_s_own_parser(samples, language):
    rng, kinds = np.random.default_rng(2), set()
    for sample in map(data.plain, samples):
        asker = tasks.Asker(sample, rng, language)
        for q in filter(None, (asker.gauge() if i % 10 == 0 else asker.ask() for i in range(60))):
            kinds.add(q.kind)
            if q.kind in ("categories", "locate", "locate_relation", "absent", "pick_place"):
                read = Detect(q.targets or ("pick", "place")).read(answer_of(q.answer), (View((320, 224)),))
                assert len(read.detections) == len(q.things) and read.dropped == 0
                for d, i in zip(read.detections, q.things):
                    assert np.abs(np.subtract(d.box_xyxy_px, sample.things[i].box_xyxy_px)).max() < 0.5
            elif q.kind == "point":
                read = Point(q.targets).read(answer_of(q.answer), (View((320, 224)),))
                hit = {int(sample.labels[int(p.xy_px[1]), int(p.xy_px[0])]) for p in read.points}
                assert hit == set(q.things)
            elif q.kind == "gauge":
                said = json.loads(q.answer)
                assert said["unit"] == sample.gauge["unit"]
                assert (
                    abs(said["value"] - sample.gauge["value"])
                    <= (sample.gauge["maximum"] - sample.gauge["minimum"]) / 100
                )
            elif q.kind == "count":
                assert 0 <= int(q.answer) <= len(sample.things)
            else:
                assert q.answer in map(language.name, ("yes", "no")) or language.joint in q.answer
    assert kinds >= {"categories", "locate", "absent", "point", "count", "relation", "pick_place", "gauge", "exists"}


@pytest.mark.parametrize(
    "language, written",
    [
        (tasks.ENGLISH, "Is the red mug behind the ball? Answer yes or no."),
        (tasks.CHINESE, "红色的杯子在球后面吗？请回答是或否。"),
    ],
)
def test_a_question_is_said_in_the_language_and_costs_a_token_a_word(language, written):
    assert language.fill(language.compare, "red mug", "ball", "behind") == written
    words = [
        tokenized.strip() for tokenized in map(text.tokenizer().decode, ([t] for t in text.PackedText.encode(written)))
    ]
    assert language.name("red") in words and language.name("mug") in words and len(words) <= 8


@pytest.mark.parametrize(
    "written", ["red mug", 'a "quoted" {json: [1, 2]}', "größer als 10 °C", "红色的杯子", "\t\n  two  spaces", "😀"]
)
def test_tokenizer_gives_back_any_text(written):
    encoded = text.tokenizer().encode(written, add_special_tokens=False)
    assert text.tokenizer().decode(encoded.ids, skip_special_tokens=False) == written


def test_where_a_question_about_a_dial_ends_stands_what_it_shows(dials):
    rng, packer, seen = np.random.default_rng(7), text.PackedText(256, 70, (7, 10)), 0
    questions = [text.tokenizer().token_to_id(language.gauge) for language in tasks.LANGUAGES.values()]
    for sample in (dials.draw(rng) for _ in range(12)):
        ids, _, _, _, said_of, fits, places, scale, reading, *_ = packer.pack(sample, rng)
        named = np.flatnonzero(fits >= 0)
        assert len(named) == len(places) == len(scale) == len(reading)
        for at in np.flatnonzero(np.isin(ids, questions)):
            (index, said), n = next(iter(sample.dials.items())), int(np.searchsorted(named, at))
            assert fits[at] == 1 and said_of[at] == 1 << index and named[n] == at
            assert targets.GAUGE_SCALES[scale[n]] == (said["unit"], said["minimum"], said["maximum"])
            fraction = (said["value"] - said["minimum"]) / (said["maximum"] - said["minimum"])
            assert abs(reading[n].argmax() + 0.5 - 100 * fraction) < 0.51
            seen += 1
        assert (scale[fits[named] == 0] == -1).all()
    assert seen >= 10


def test_digits_are_single_tokens():
    tokens = text.tokenizer().encode("[12, 345]", add_special_tokens=False).tokens
    assert [t for t in tokens if any(c.isdigit() for c in t)] == list("12345")


def test_packed_questions_are_what_the_official_network_says_to_each_alone(samples):
    """Same hidden states as transformers' own forward over one prefix and one question: prefix sharing loses nothing."""
    ids = text.special_ids()
    model = embedded.build(ids).eval()
    net = embedded.Batched(model, data.INPUT_SIZE)
    packer = text.PackedText(256, net.visual_tokens, net.grid)
    sample = data.plain(samples[1])
    packed, positions, segments, *_ = packer.pack(sample, np.random.default_rng(0))
    assert segments.max() >= 3
    rows, columns = 14, 20
    pixels = torch.from_numpy(sample.rgb.copy()).float() / 127.5 - 1
    patches = (
        pixels.permute(2, 0, 1)[None].expand(2, 3, 224, 320).reshape(1, 2, 3, rows // 2, 2, 16, columns // 2, 2, 16)
    )
    patches = patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1)
    with torch.no_grad():
        merged, deep = net.see(torch.from_numpy(sample.rgb.copy())[None])
        segment = torch.from_numpy(segments)[None]
        allowed = ((segment[:, None] == segment[:, :, None]) | (segment == 0)[:, None]) & torch.ones(
            len(packed), len(packed)
        ).tril().bool()
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, -1e9)[:, None]
        hidden = net.read(
            merged, deep, torch.from_numpy(packed)[None], torch.from_numpy(positions)[:, None], mask, packer.visual
        )
        plain = model.lm_head(hidden)[0]
        windows = embedded.Windows(segment, len(packer.prefix), packer.window, text.ALONE)
        packed_ids, packed_positions = torch.from_numpy(packed)[None], torch.from_numpy(positions)[:, None]
        ours = model.lm_head(net.read(merged, deep, packed_ids, packed_positions, windows, packer.visual))[0]
        pictured, alone = segments[(segments > 0) & (segments < text.ALONE)], segments[segments >= text.ALONE]
        for k in {1, int(pictured.max()), int(alone.max(initial=0))} - {0}:
            seen = k < text.ALONE
            tokens = np.concatenate([packed[segments == 0], packed[segments == k]]) if seen else packed[segments == k]
            picture = dict(pixel_values=patches, image_grid_thw=torch.tensor([[1, rows, columns]])) if seen else {}
            tokens = torch.from_numpy(tokens)[None]
            if seen:
                picture["mm_token_type_ids"] = (tokens == ids["<|image_pad|>"]).long()
            model.model.rope_deltas = None
            official = model(input_ids=tokens, **picture).logits[0]
            mine = ours[segments == k]
            assert torch.allclose(mine, official[-len(mine) :], atol=2e-4, rtol=1e-3)
            if seen:
                assert torch.allclose(mine, plain[segments == k], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "scores,expected",
    [([(0.9, True), (0.1, False)], 1.0), ([(0.1, True), (0.9, False)], 0.0), ([(0.5, True), (0.5, False)], 0.5)],
)
def test_auroc(scores, expected):
    assert evaluate.auroc(scores) == expected


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--set", "{"], "is no JSON"),
        (["--set", "[]"], "must be a JSON object"),
        (["--set", '{"step": 1}'], "there is no step, only seed"),
        (["--set", '{"batch": "4"}'], "batch = '4' must be a number"),
        (["--set", '{"batch": 0}'], "batch must be 1 or more"),
        (["--set", '{"joint_rate": -1}'], "joint_rate = -1"),
        (["--set", '{"chinese_share": 7}'], "0 to 1"),
        (["--workers", "3"], "--workers 3 must divide the batch of 16"),
        (["--workers", "0"], "must be 1 or more"),
        (["--start", "nowhere"], "no checkpoint"),
        (["--data", "nowhere"], "no train shards in nowhere; make them with"),
        (["--data", "cut"], "train_00000.npz is no whole shard"),
        (["--data", "stale"], "shows other scenes"),
        ([], "--data is needed"),
    ],
)
def test_wrong_arguments_of_training_are_refused_by_name(tmp_path, monkeypatch, capsys, arguments, said):
    import train_embedded

    monkeypatch.chdir(tmp_path)
    for folder in ("data", "cut", "stale"):
        (tmp_path / folder).mkdir()
        for split, first in (("train", data.SPLIT_SEEDS["train"]), ("val", data.SPLIT_SEEDS["val"])):
            stamp = data.stamp_of(first + (folder == "stale"), "fast")
            metas = np.frombuffer(json.dumps([dict(seed=first, things=[], gauge=None)]).encode(), np.uint8)
            np.savez(
                tmp_path / folder / f"{split}_00000.npz",
                metas=metas,
                stamp=stamp,
                rgb0=np.zeros(1),
                labels0=np.zeros(1),
            )
    whole = (tmp_path / "cut/train_00000.npz").read_bytes()
    (tmp_path / "cut/train_00000.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit) as ended:
        train_embedded.main(
            ["--run", "run", *(["--data", "data"] if arguments and "--data" not in arguments else []), *arguments]
        )
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_compiled_training_is_refused_on_a_gpu(tmp_path, monkeypatch, capsys):
    import train_embedded

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit) as ended:
        train_embedded.main(["--run", str(tmp_path / "run"), "--data", str(tmp_path), "--compile"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "computed something else" in said and "leave --compile out" in said
    assert not (tmp_path / "run").exists()


class Scripted:
    """An engine that knows its answers by the prompt; what it does not know it answers by `otherwise`."""

    def __init__(self, answers: dict[str, str], otherwise: str = ""):
        self.answers, self.otherwise = answers, otherwise

    def generate(self, prompt, limits, control=None, on_text=None):
        return answer_of(self.answers.get(prompt.text, self.otherwise))


@LANGUAGES
def test_evaluation_calls_right_answers_right_and_wrong_ones_wrong(language):
    truth, wrong, rubbish = (
        evaluate.Evaluation(Perception(Scripted({}, said)), language, None)
        for said in ("", '```json\n[\n\t{"bbox_2d": [1, 1, 9, 9], "label": "thing"}\n]\n```', "mu")
    )
    with SimCamera(*data.VIEW_SIZE, quality="fast") as camera:
        for seed in range(30, 39):
            view = camera.render(sample_scene(seed, gauge=seed % 3 == 0))
            asker, questions = truth.questions(view, seed)
            answers = truth.perception.engine.answers
            answers.update((q.prompt, q.answer) for q in questions.values())
            named = [(i, language.name(asker.thing(i).kind)) for i in asker.named + asker.gauges]
            answers[Detect(tuple(map(language.name, data.KIND_IDS))).prompt()] = tasks.box_list(asker.sample, named)[0]
            for evaluation in (truth, wrong, rubbish):
                evaluation.scene(view, seed)
    rows = {"precision_50", "recall_50", *evaluate.QUESTIONS.values()}
    assert truth.tally.right.keys() == rows and all(all(values) for values in truth.tally.right.values())
    assert truth.tally.malformed == 0 and np.mean(truth.tally.ious) > 0.95 and max(truth.tally.gauge_errors) < 1
    assert not any(map(any, wrong.tally.right.values()))
    assert rubbish.tally.malformed == rubbish.tally.answers and not any(map(any, rubbish.tally.right.values()))


def a_layer_more_adds_nothing_at_first(folder, shallow, run) -> None:
    """A run that begins with a checkpoint of fewer layers computes what that checkpoint does."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, shallow)
    weights = load_file(folder / "model.safetensors")
    last = (
        f"visual.blocks.{len(run.model.model.visual.blocks) - 1}.",
        f"layers.{len(run.net.model.model.language_model.layers) - 1}.",
    )
    save_file({k: v for k, v in weights.items() if not any(n in k for n in last)}, shallow / "model.safetensors")
    run.start_from(shallow)
    pixels, visual, words = (
        torch.randint(0, 255, (1, 224, 320, 3)),
        run.model.model.visual,
        run.model.model.language_model,
    )
    ids, positions = torch.arange(9)[None] + 300, torch.arange(9).expand(3, 1, -1)
    see = lambda: run.net.see(pixels.byte())[0]  # noqa: E731
    read = lambda: run.net.read(torch.zeros(1, 0, 256), [], ids, positions, None, slice(0, 0))  # noqa: E731
    with torch.no_grad():
        grown = see(), read()
        kept = visual.blocks, words.layers
        visual.blocks, words.layers = visual.blocks[:-1], words.layers[:-1]
        assert torch.allclose(see(), grown[0], atol=1e-6) and torch.allclose(read(), grown[1], atol=1e-6)
        visual.blocks, words.layers = kept


def test_training_goes_through_its_phases_resumes_and_exports(tmp_path):
    """The command as a user gives it, on twenty views: cut in the middle, gone on with, and its export loaded by transformers."""
    import train_embedded
    from transformers import AutoModelForImageTextToText

    shards = tmp_path / "data"
    shards.mkdir()
    with SimCamera(*data.VIEW_SIZE, quality="fast") as camera:
        for split in ("train", "val"):
            first = data.SPLIT_SEEDS[split]
            data.render_shard(camera, range(first, first + 20), shards / f"{split}_00000.npz", "fast")
    steps = dict(vision_steps=2, language_steps=2, batch=2, mosaics=1, pack_tokens=128, wide_share=0, close_share=0)

    def command(joint: int, *more: str) -> int:
        return train_embedded.main(
            [
                "--run",
                str(tmp_path / "run"),
                "--data",
                str(shards),
                "--threads",
                "1",
                "--log-every",
                "1",
                "--set",
                json.dumps(steps | dict(joint_steps=joint)),
                *more,
            ]
        )

    assert command(1) == 0
    with pytest.raises(SystemExit):
        command(1, "--start", str(tmp_path / "run"))
    steps.clear()  # the run knows them
    assert command(3, "--loaders", "1") == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    trained = [r for r in rows if r["phase"] != "val"]
    assert [r["phase"] for r in trained] == ["vision"] * 2 + ["language"] * 2 + ["joint"] * 3
    assert [r["step"] for r in trained] == list(range(1, 8)) and trained[-1]["images"] == 14
    assert all(np.isfinite(v) for r in trained for v in r.values() if not isinstance(v, str))
    assert train_embedded.main(["--run", str(tmp_path / "run"), "--export", str(tmp_path / "out")]) == 0
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    assert all(torch.allclose(v, state[k], atol=2e-3) for k, v in loaded.items())
    again = train_embedded.Run(train_embedded.Settings(seed=1), tmp_path, "cpu", text.special_ids())
    a_layer_more_adds_nothing_at_first(tmp_path / "out", tmp_path / "shallow", again)
    swap_two_tokens(tmp_path / "out")
    again.start_from(tmp_path / "out")
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    named = torch.arange(text.tokenizer().get_vocab_size())
    for name, module in again.modules().items():
        for k, v in module.state_dict().items():
            rows = named if "embed_tokens" in k or "lm_head" in k else slice(None)  # the others are nobody's
            assert torch.allclose(v[rows], saved[name][k][rows], atol=2e-3), (name, k)


def swap_two_tokens(folder):
    """A checkpoint of another tokenizer: the same words, two of them at each other's places."""
    from safetensors.torch import load_file, save_file

    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    one, other = (next(t for t in written["added_tokens"] if t["content"] == word) for word in ("红色", "蓝色"))
    one["content"], other["content"] = other["content"], one["content"]
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    weights = load_file(folder / "model.safetensors")
    rows = next(v for k, v in weights.items() if k.endswith("embed_tokens.weight"))
    rows[[one["id"], other["id"]]] = rows[[other["id"], one["id"]]]
    save_file(weights, folder / "model.safetensors")
