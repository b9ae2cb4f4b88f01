"""What the embedded model is asked in the wider world: labels agree with geometry, answers with their schemas, and the
evaluation's sentence forms are never trained on."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import alone
import batches
import data
import embedded
import frames
import indirect
import orders
import outside
import people
import sayings
import targets
import tasks
import text
import wordings
from evaluate_wide import FIRST_SEED, same

from qwen3vl_ros.geometry import facts
from qwen3vl_ros.questions import Dial, Holds, Plan, ReadText, Understand, admissions
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.layouts import exact_layout
from qwen3vl_ros.sim.specs import SIGN_TEXTS
from qwen3vl_ros.types import Generation, Verdict, View

FACT = {"to the left of": "left_of", "to the right of": "right_of", "in front of": "in_front_of", "behind": "behind"}
LANGUAGES = pytest.mark.parametrize("language", ("en", "zh"))


@pytest.fixture(scope="module")
def wide():
    """(scene, view, sample) of wide scenes, then of close-ups."""
    seen = []
    with SimCamera(*data.VIEW_SIZE, quality="fast") as camera:
        for split, count in (("wide", 24), ("close", 8)):
            for seed in range(data.SPLIT_SEEDS[split], data.SPLIT_SEEDS[split] + count):
                spec = data.scene_of(seed, split)
                view = camera.render(spec, depth=False)
                seen.append((spec, view, data.sample_of(view, wide=True)))
    return seen


def said(answer: str) -> Generation:
    return Generation(answer, (), None, (), "stop")


# -- labels ------------------------------------------------------------------------------------------------------------


def whole_layout(spec):
    return exact_layout(spec, spec.camera.world_T_camera(), range(spec.sign_index + (spec.sign is not None)))


def test_relations_are_those_that_facts_measure(wide):
    verdicts = []
    for spec, _, sample in wide:
        asker, layout = people.WideAsker(sample, np.random.default_rng(0)), whole_layout(spec)
        for a in asker.named:
            for b in asker.named:
                for words, holds in asker.relation(a, b).items() if a != b else ():
                    if holds is not None:
                        verdict = facts.measure(layout, FACT[words], (str(a), str(b))).verdict
                        assert verdict is not (Verdict.FALSE if holds else Verdict.TRUE), (spec.seed, a, words, b)
                        verdicts.append(verdict is not Verdict.UNKNOWN)
    assert len(verdicts) > 300 and np.mean(verdicts) > 0.9


def test_what_is_said_to_be_in_a_bowl_or_on_a_box_is_so_by_measure(wide):
    checked = 0
    for spec, _, sample in wide:
        layout = whole_layout(spec)
        for i, thing in enumerate(sample.things):
            below = sample.things[thing.on].kind if thing.on is not None else ""
            if below in ("bowl", "box", "cube"):
                relation = "in" if below == "bowl" else "on"
                assert facts.measure(layout, relation, (str(i), str(thing.on))).verdict is Verdict.TRUE
                checked += 1
    assert checked >= 4


def test_levels_and_key_points_move_with_crops_and_mirrors(wide):
    rng, levels, points = np.random.default_rng(1), 0, 0
    for _, _, sample in wide:
        for _ in range(6):
            changed = data.augment(sample, rng)
            things = {
                (t.level, i): t for i, t in enumerate(changed.things) if t.level and t.visibility > 0.6 and t.whole
            }
            for (level, _), thing in things.items():
                box = changed.levels[level - 1]
                if box is None:
                    continue
                x0, y0, x1, y1 = thing.box_xyxy_px
                assert box[0] - 3 < x0 and box[1] - 3 < y0 and x1 < box[2] + 3 and y1 < box[3] + 3
                levels += 1
            for index, dial in changed.dials.items():
                if changed.things[index].visibility < 0.95:
                    continue
                x0, y0, x1, y1 = changed.things[index].box_xyxy_px
                for x, y in dial["points_px"].values():
                    assert x0 < x < x1 and y0 < y < y1
                    points += 1
    assert levels > 10 and points > 40


def test_a_mirrored_view_has_left_and_right_exchanged(wide):
    from augment import _mirrored

    sample = next(s for _, _, s in wide if len(people.WideAsker(s, None).named) > 2 and not s.dials)
    asker, turned = (people.WideAsker(s, None) for s in (data.plain(sample), data.plain(_mirrored(sample))))
    decided = 0
    for a in asker.named:
        for b in asker.named:
            before, after = asker.relation(a, b), turned.relation(a, b)
            if a != b and before["to the left of"] is not None and after["to the left of"] is not None:
                assert before["to the left of"] == after["to the right of"] and before["behind"] == after["behind"]
                decided += 1
    assert decided > 1


def test_a_sign_painted_anew_is_that_of_the_renderer(tmp_path):
    with SimCamera(*data.VIEW_SIZE, quality="fast") as camera:
        data.render_shard(camera, range(8_000_000, 8_000_010), tmp_path / "close_00000.npz", "fast")
        views, rng, checked = data.Views(tmp_path, "close"), np.random.default_rng(2), 0
        for i in range(len(views)):
            before = views[i]
            for index in before.signs:
                after = views._plates[i].with_new_text(before, rng)
                assert after.signs[index]["text"] in SIGN_TEXTS
                assert (after.rgb == before.rgb)[before.labels != index].all()
                checked += 1
    assert checked >= 2


def test_dense_targets_know_the_wider_world(wide):
    found = []
    for _, _, sample in wide:
        sample = data.plain(sample)
        dense = targets.dense_targets(sample, (7, 10))
        for k in sample.signs:
            if sample.things[k].visibility > 0.8:
                assert {SIGN_TEXTS[w] for w in dense["word"][dense["owner"] == k]} == {sample.signs[k]["text"]}
        for k, dial in sample.dials.items():
            if sample.things[k].visibility > 0.5:
                assert set(dense["zone"][dense["owner"] == k]) == {targets.zone_of(dial)}
        kinds = [data.WIDE_KIND_IDS[t.kind] for t in sample.things if t.visibility > 0.6 and t.kind != "shelf"]
        found += [kind in dense["kind"] for kind in kinds]
    assert len(found) > 60 and np.mean(found) > 0.95, "a small thing before a larger one may have no token of its own"


# -- questions ---------------------------------------------------------------------------------------------------------


@LANGUAGES
def test_every_answer_is_read_back_by_the_question_that_was_asked(wide, language):
    rng, kinds = np.random.default_rng(3), set()
    for _, _, sample in wide:
        sample = data.plain(sample)
        asker = people.WideAsker(sample, rng, tasks.LANGUAGES[language])
        view = (View(sample.labels.shape[::-1]),)
        for name in people.SHARES:
            question = next(filter(None, (getattr(asker, name)() for _ in range(8))), None)
            if question is None:
                continue
            kinds.add(name)
            if name == "dial_face":
                seen, truth = Dial().read(said(question.answer), view).value, sample.gauge
                assert (seen.unit, seen.minimum, seen.maximum) == (truth["unit"], truth["minimum"], truth["maximum"])
                assert seen.zone == (truth["zone"] or "none")
                assert abs(seen.value - truth["value"]) <= (truth["maximum"] - truth["minimum"]) / 100
                for point, at in truth["points_px"].items():
                    assert np.linalg.norm(np.subtract(seen.points_px[point], at)) < 0.5
            if name == "written":
                read = ReadText().read(said(question.answer), view).detections
                assert [d.label for d in read] == [sample.signs[i]["text"] for i in question.things]
            if name == "understand":
                Understand("x").read(said(question.answer), view)
            if name == "plan":
                Plan("x").read(said(question.answer), view)
            if name == "beyond":
                assert admissions.admits(question.answer)
            if name == "people":
                assert same(question, question.answer, asker)
    assert kinds == set(people.SHARES)


@LANGUAGES
def test_a_question_about_a_thing_names_it_and_one_that_counts_counts(wide, language):
    rng, words = np.random.default_rng(4), tasks.LANGUAGES[language]
    for _, _, sample in wide:
        asker = people.WideAsker(data.plain(sample), rng, words)
        for kind in ("count", "exists", "colour", "where"):
            question = asker.asked(kind)
            if question is None:
                continue
            phrase = question.targets[0]
            assert phrase in question.answer or (kind == "count" and language == "en")
            if kind == "count":
                number = re.search(r"\d+", question.answer)
                fitting = [
                    i for i in asker.seen if phrase in (words.name(asker.name(i)), words.name(asker.thing(i).kind))
                ]
                assert int(number[0] if number else 0) == len(fitting)


@LANGUAGES
def test_facts_are_said_with_the_numbers_of_the_prompt(language):
    for seed in range(300):
        question = sayings.Sayings(np.random.default_rng(seed), language).tell()
        lines = re.findall(r"^- (.*)$", question.prompt, re.M)
        for number in re.findall(r"\d+\.\d+ ?[A-Za-z/%°]*", question.answer):
            assert any(number in line for line in lines), (question.prompt, question.answer)


def test_an_order_for_what_is_held_does_not_pick_it_up_again():
    for seed in range(400):
        rng = np.random.default_rng(seed)
        held = ""
        for step in json.loads(sayings.Sayings(rng, "en").plan().answer)["steps"]:
            if step["action"] == "pick":
                assert not held, "the hand is full"
                held = step["object"]
            elif step["action"] == "place":
                assert held == step["object"], "only what is held is placed"
                held = ""


# -- what is held out --------------------------------------------------------------------------------------------------


@LANGUAGES
def test_every_kind_is_said_in_fifteen_ways_and_the_evaluation_has_others(language):
    for kind, forms in wordings.FORMS[language].items():
        held_out = wordings.HELD_OUT[language][kind]
        assert len(set(forms)) >= 15 and len(held_out) >= 3 and not set(forms) & set(held_out), kind
    for table, apart in ((orders.CLAUSES, orders.HELD_OUT), (wordings.FOLLOW_UPS, wordings.HELD_OUT_FOLLOW_UPS)):
        for kind, forms in table[language].items():
            assert not set(forms) & set(apart[language][kind])
    assert not set(outside.THINGS[language]) & set(outside.HELD_OUT_THINGS[language])
    assert not set(outside.SENTENCES[language]) & set(outside.HELD_OUT_SENTENCES[language])


def test_training_never_speaks_in_a_form_of_the_evaluation(monkeypatch):
    for module, table in ((wordings, "HELD_OUT"), (wordings, "HELD_OUT_FOLLOW_UPS"), (orders, "HELD_OUT")):
        monkeypatch.setattr(module, table, {})
    monkeypatch.setattr(outside, "HELD_OUT_THINGS", {})
    monkeypatch.setattr(outside, "HELD_OUT_SENTENCES", {})
    for language in ("en", "zh"):
        trained = sayings.Sayings(np.random.default_rng(0), language)
        assert all(q.prompt for q in (trained.understand(), trained.plan(), trained.tell(), trained.beyond(True)))
        with pytest.raises(KeyError):
            sayings.Sayings(np.random.default_rng(0), language, held_out=True)


@LANGUAGES
def test_what_openers_and_clauses_make_is_never_a_form_of_the_evaluation(language):
    speaker = wordings.Speaker(np.random.default_rng(0), language)
    for kind, held_out in wordings.HELD_OUT[language].items():
        made = {speaker._template(kind, False) for _ in range(4000)}
        assert len(made) > 60 and not made & set(held_out), kind
    invented = orders.Orders(
        np.random.default_rng(1), language, lambda *_: "red mug" if language == "en" else "红色的杯子"
    )
    unlike = [
        re.escape(form).replace(r"\{a\}", ".+").replace(r"\{w\}", ".+")
        for kind in ("put", "pick", "look")
        for form in orders.HELD_OUT[language][kind]
    ]
    for _ in range(2000):
        said = invented.order()[0].instruction.rstrip(".。?？")
        assert not any(re.fullmatch(form, said, re.IGNORECASE) for form in unlike), said


@LANGUAGES
def test_an_opener_goes_with_every_clause_and_keeps_its_slots(language):
    for kind, clauses in indirect.CLAUSES[language].items():
        slots = [set(re.findall(r"{(a|b|rel|adj)}", form)) for form in wordings.FORMS[language][kind]]
        for clause in clauses:
            assert set(re.findall(r"{(a|b|rel|adj)}", clause)) in slots, clause
    choose = wordings.Speaker(np.random.default_rng(0), language).choose
    made = {indirect.sentence(language, "fits", choose) for _ in range(400)}
    assert all(("{a}" in text and "{b}" in text and "{if}" not in text and text[-1] in "?.？。") for text in made)


def test_the_wide_evaluation_has_seeds_of_its_own():
    ours = range(FIRST_SEED, FIRST_SEED + data.SEEDS_PER_SPLIT)
    assert all(ours.stop <= first or first + data.SEEDS_PER_SPLIT <= ours.start for first in data.SPLIT_SEEDS.values())


# -- tokens ------------------------------------------------------------------------------------------------------------


@LANGUAGES
def test_the_words_of_a_form_are_tokens_and_not_letters(language):
    tokenizer = text.tokenizer()
    for kind, forms in (wordings.FORMS[language] | wordings.HELD_OUT[language]).items():
        for form in forms:
            written = re.sub(r"\{\w+\}s?", "red" if language == "en" else "红色", form)
            tokens = [tokenizer.decode([t]) for t in tokenizer.encode(written, add_special_tokens=False).ids]
            assert "�" not in "".join(tokens), (kind, form, tokens)
            if language == "en":
                letters = [t for t in tokens if re.fullmatch(r"[b-zB-HJ-Z]", t)]
                assert not letters, (form, tokens)


# -- several pictures --------------------------------------------------------------------------------------------------


def test_questions_about_several_pictures_are_what_the_official_network_says(wide):
    ids = text.special_ids()
    model = embedded.build(ids).eval()
    net = embedded.Batched(model, data.INPUT_SIZE)
    packer = frames.PackedFrames(text.PackedText(128, net.visual_tokens, net.grid), 3)
    samples = [data.plain(sample) for _, _, sample in wide[:3]]
    packed, positions, segments, weights = packer.pack(samples, np.random.default_rng(1))
    patches = []
    for sample in samples:
        pixels = torch.from_numpy(sample.rgb.copy()).float() / 127.5 - 1
        pixels = pixels.permute(2, 0, 1)[None].expand(2, 3, 224, 320).reshape(1, 2, 3, 7, 2, 16, 10, 2, 16)
        patches.append(pixels.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(280, -1))
    with torch.no_grad():
        merged, deep = net.see(torch.from_numpy(np.stack([s.rgb for s in samples])))
        join = lambda x: x.reshape(1, -1, x.shape[-1])  # noqa: E731
        windows = embedded.Windows(torch.from_numpy(segments)[None], len(packer.prefix), text.WINDOW, text.ALONE)
        packed_ids, places = torch.from_numpy(packed)[None], torch.from_numpy(positions)[:, None]
        hidden = net.read(
            join(merged), [join(d) for d in deep], packed_ids, places, windows, torch.from_numpy(packer.visual)
        )
        ours = model.lm_head(hidden)[0]
        assert segments.max() >= 2
        for k in (1, int(segments.max())):
            tokens = torch.from_numpy(np.concatenate([packed[segments == 0], packed[segments == k]]))[None]
            model.model.rope_deltas = None
            official = model(
                input_ids=tokens,
                pixel_values=torch.cat(patches),
                image_grid_thw=torch.tensor([[1, 14, 20]] * 3),
                mm_token_type_ids=(tokens == ids["<|image_pad|>"]).long(),
            ).logits[0]
            mine = ours[segments == k]
            assert torch.allclose(mine, official[-len(mine) :], atol=2e-4, rtol=1e-3)


@LANGUAGES
def test_a_statement_is_judged_picture_by_picture(wide, language):
    rng, held = np.random.default_rng(5), []
    samples = [data.plain(sample) for _, _, sample in wide[:20]]
    for _ in range(60):
        chosen = [samples[int(i)] for i in rng.choice(len(samples), 3, replace=False)]
        askers = [people.WideAsker(s, rng, tasks.LANGUAGES[language], wide=True) for s in chosen]
        question = frames.statement(askers, rng)
        if question is not None:
            answer = json.loads(question.answer)
            assert len(answer) == 3 and Holds("x", (0, 1, 2)).read(said(question.answer), (View((9, 9)),)).value
            held += answer
    assert 0.2 < np.mean([a == "yes" for a in held]) < 0.8 and len(held) > 60


# -- without a picture -------------------------------------------------------------------------------------------------


def test_questions_in_rows_of_their_own_are_what_the_official_network_says_to_each():
    model = embedded.build(text.special_ids()).eval()
    net = embedded.Batched(model, data.INPUT_SIZE)
    rows = alone.PackedAlone(text.PackedText(128, net.visual_tokens, net.grid, 0.4, pictured_only=True), 2)
    ids, positions, numbers, weights, kinds = rows.pack(np.random.default_rng(2)).values()
    assert ids.shape == positions.shape == numbers.shape == weights.shape == (2, alone.ROW)
    assert numbers.max() + 1 == len(kinds) >= 4 and {*kinds} <= {*range(len(alone.KINDS))}
    ids, positions, numbers = map(torch.from_numpy, (ids, positions, numbers))
    with torch.no_grad():
        ours = model.lm_head(rows.read(net, ids, positions, numbers))
        for question in range(len(kinds)):
            official = model(input_ids=ids[numbers == question][None]).logits[0]
            assert torch.allclose(ours[numbers == question], official, atol=2e-4, rtol=1e-3)
            assert (torch.from_numpy(weights)[numbers == question] > 0).any()


def test_whole_answers_are_counted_by_kind():
    net = embedded.Batched(embedded.build(text.special_ids()).eval(), data.INPUT_SIZE)
    rows = alone.PackedAlone(text.PackedText(128, net.visual_tokens, net.grid), 3, held_out=True)
    with torch.no_grad():
        loss, parts = rows.loss(net, batches.on("cpu", rows.pack(np.random.default_rng(3))))
    assert loss > 3 and {k for k in parts if k.endswith("_whole")} == {"parse_whole", "plan_whole", "facts_whole"}
    assert all(v < 0.5 or v.isnan() for k, v in parts.items() if k != "alone")


def test_a_pack_of_pictured_questions_leaves_the_others_out(wide):
    packer = text.PackedText(256, 70, (7, 10), pictured_only=True)
    for n, (_, _, sample) in enumerate(wide[:6]):
        segments = packer.pack(data.plain(sample), np.random.default_rng(n))[2]
        assert segments.max() < text.ALONE and (segments > 0).mean() > 0.6


def test_a_network_does_not_part_from_itself_and_does_from_another(wide):
    packer, grounding = text.PackedText(128, 70, (7, 10), pictured_only=True), text.GroundingHead(256)
    sample = data.plain(wide[0][2])
    owner = torch.from_numpy(targets.dense_targets(sample, (7, 10))["owner"])[None]
    packed = batches.on("cpu", packer.pack_all([sample], np.random.default_rng(4)))
    nets = [embedded.Batched(embedded.build(text.special_ids(), seed).eval(), data.INPUT_SIZE) for seed in (0, 1)]
    with torch.no_grad():
        merged, deep = nets[0].see(torch.from_numpy(sample.rgb.copy())[None])
        untaught, *taught = (
            packer.loss(nets[0], grounding, merged, deep, packed, owner, teacher)
            for teacher in (None, *((net, merged, deep) for net in nets))
        )
    by_itself, by_another = (parts for _, parts in taught)
    assert by_itself["parting"] < 1e-6 and by_itself["words"] == by_another["words"] == untaught[1]["words"]
    for loss, parts in taught:
        assert loss == pytest.approx(float(untaught[0]) + text.TEACHER_WEIGHT * float(parts["parting"]), abs=1e-4)
