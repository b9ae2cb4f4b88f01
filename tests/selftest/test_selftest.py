"""`qwen3vl selftest` tells a model that works from one that is broken, and a model of a small world from both."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from remote_server import ModelServer
from tiny import tiny_checkpoint

from qwen3vl_ros.cli import main
from qwen3vl_ros.config import Config, RemoteConfig
from qwen3vl_ros.engine.base import EngineInfo
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.questions import Ask, Detect, Detect3D, Gauge, Point, ReadText
from qwen3vl_ros.selftest import pictures
from qwen3vl_ros.selftest.checks import GUIDED, all_checks
from qwen3vl_ros.selftest.page import page, summary, verdict
from qwen3vl_ros.selftest.run import EXPLAINED, FAILED, PASSED, Report, examine, run
from qwen3vl_ros.types import EngineError, Generation

CHECKS = all_checks()


@pytest.fixture(scope="module")
def embedded() -> Report:
    return run(Config())


def verdicts(report: Report) -> dict[str, str]:
    return {o.name: o.verdict for o in report.outcomes}


def report_of(engine, **how) -> Report:
    """Without the reference: what is scripted has none."""
    return examine(engine, Config(), reference=False, **how)


# -- real engines ------------------------------------------------------------------------------------------------


def test_the_embedded_model_passes_its_own_world_and_the_rest_is_explained(embedded):
    found = verdicts(embedded)
    assert embedded.good
    for name in ("boxes", "box of one", "absent", "point", "count", "dial", GUIDED):
        assert found[f"{name}, rendered"] == PASSED, name
    assert found["boxes, drawn"] == EXPLAINED, "it does not know drawn shapes"
    assert found["the same again"] == PASSED and found["same tokens as transformers"] == PASSED
    assert not embedded.count(FAILED) and all(o.why for o in embedded.outcomes if o.verdict == EXPLAINED)


def test_the_page_is_one_table_of_engine_and_one_of_questions(embedded):
    lines = list(page(embedded))
    assert lines[0].startswith("# Self-test of qwen3vl_ros") and f"**{verdict(embedded)}**" in lines
    assert sum(line.startswith("|---") for line in lines) == 2
    assert all(any(line.startswith(f"| {o.name} | {o.verdict} |") for line in lines) for o in embedded.outcomes)
    assert any("tokens/s" in line for line in lines) and any("GB of this process" in line for line in lines)


def test_a_served_model_gets_the_same_page(embedded):
    engine = load_tested_engine()
    with ModelServer(engine) as server:
        served = run(Config(remote=RemoteConfig(url=server.url)))
    engine.close()
    assert served.good and served.info.runtime == "remote"
    here, there = verdicts(embedded), verdicts(served)
    assert there["same tokens as transformers"] == EXPLAINED and there["coordinates of the server"] == EXPLAINED
    assert {n: v for n, v in there.items() if here.get(n) != v and n != f"{GUIDED}, rendered"} == {
        "same tokens as transformers": EXPLAINED,
        "coordinates of the server": EXPLAINED,
    }


def test_a_model_of_random_weights_is_broken(tmp_path):
    report = run(Config(model=str(tiny_checkpoint(tmp_path)), device="cpu"))
    assert not report.good and report.count(FAILED) > 8
    assert not any(o.verdict == PASSED and o.kind for o in report.outcomes if o.ability != "absent")


def test_the_page_of_a_model_that_says_nothing_gives_the_reason_once():
    engine = load_tested_engine()
    refuse = "the model says nothing but '!'"

    def silent(_):
        raise EngineError(refuse)

    report = report_of(Wrapped(engine, silent))
    engine.close()
    assert verdict(report).startswith("This does not work: not one of 17 questions was answered right")
    rows = [line for line in page(report) if "| failed |" in line]
    assert len(rows) == 17 and sum(refuse in row for row in rows) == 1 and sum("as above" in row for row in rows) == 16
    assert json.loads(summary(report))["failed"] == 17 and not report.good


class Wrapped:
    """The embedded model, with a fault behind it."""

    def __init__(self, engine, fault):
        self.info, self._engine, self._fault = engine.info, engine, fault

    def generate(self, prompt, limits, control=None, on_text=None):
        return self._fault(self._engine.generate(prompt, limits, control, on_text))

    def status(self):
        return {}


def swapped(said: Generation) -> Generation:
    """y before x."""
    try:
        objects = json.loads(said.text.removeprefix("```json").removesuffix("```"))
        for o in objects:
            for key in ("bbox_2d", "point_2d"):
                if key in o:
                    o[key] = [v for pair in zip(o[key][1::2], o[key][::2]) for v in pair]
        return dataclasses.replace(said, text=json.dumps(objects), token_ends=(), logprobs=None, token_ids=())
    except (ValueError, TypeError):
        return said


def cut(said: Generation) -> Generation:
    return dataclasses.replace(said, text=said.text[: len(said.text) // 2], token_ends=(), logprobs=None, token_ids=())


@pytest.mark.parametrize("fault", [swapped, cut])
def test_a_fault_behind_a_good_model_is_a_failure(fault):
    engine = load_tested_engine()
    report = report_of(Wrapped(engine, fault))
    engine.close()
    assert not report.good and verdicts(report)["boxes, rendered"] == FAILED


# -- models that know the world: scripted, since none is here ------------------------------------------------------


class Knowing:
    """Answers everything as it is, but for the abilities that it lacks, of a kind of picture or of both."""

    info = EngineInfo("scripted", "nowhere", "Scripted", "cpu", "float32", 0, False, "a test")

    def __init__(self, lacks: set[tuple[str, str]] = frozenset(), asked=lambda: None, guided: bool = True):
        self._lacks, self._asked, self._guided = lacks, asked, guided

    def status(self):
        return {}

    def generate(self, prompt, limits, control=None, on_text=None):
        self._asked()
        if prompt.schema is not None and not self._guided:
            raise EngineError("guided answers need the package llguidance, which is not installed")
        (check,) = [
            c
            for c in CHECKS
            if c.question.prompt() == prompt.text
            and np.array_equal(c.picture.rgb, prompt.images[0])
            and c.guided == (prompt.schema is not None)
        ]
        lacking = (check.ability, check.picture.kind) in self._lacks
        text = "I do not know" if lacking else told(check)
        return Generation(text, (), None, (), "stop", generated_tokens=len(text), decode_s=0.1)


def told(check) -> str:
    picture, q = check.picture, check.question
    height, width = picture.rgb.shape[:2]

    def thousandths(box):
        return [round(1000 * v / (width, height)[i % 2]) for i, v in enumerate(box)]

    if isinstance(q, Ask):
        return {"balls": "2", "circles": "3"}.get(
            next((w for w in ("balls", "circles") if w in q.question), ""), "Paris."
        )
    if isinstance(q, Gauge):
        return json.dumps({"value": picture.reading[0], "unit": picture.reading[1]})
    if isinstance(q, ReadText):
        return json.dumps([{"bbox_2d": thousandths(picture.text[1]), "text_content": picture.text[0]}])
    if isinstance(q, Detect3D):
        return json.dumps([{"bbox_3d": [0, 0, 1, 0.1, 0.1, 0.1, 0, 0, 0], "label": "ball"}])
    found = [(word, box) for word in q.targets for box in picture.boxes_of(word)]
    if isinstance(q, Point):
        return json.dumps(
            [
                {"point_2d": [(b[0] + b[2]) // 2, (b[1] + b[3]) // 2], "label": w}
                for w, b in ((w, thousandths(b)) for w, b in found)
            ]
        )
    assert isinstance(q, Detect)
    return json.dumps([{"bbox_2d": thousandths(box), "label": word} for word, box in found])


def test_a_model_that_knows_everything_passes_everything():
    assert set(verdicts(report_of(Knowing())).values()) == {PASSED}


def test_a_model_that_knows_the_world_has_no_excuse():
    both = report_of(Knowing({("text", "drawn"), ("text", "rendered"), ("box in 3D", "rendered")}))
    assert {o.name for o in both.outcomes if o.verdict == FAILED} == {
        "text, drawn",
        "text, rendered",
        "box in 3D, rendered",
    }
    one = report_of(Knowing({("text", "rendered")}))
    assert one.good and verdicts(one)["text, rendered"] == EXPLAINED


def test_a_model_of_a_small_world_has_to_know_that_world():
    drawn = {(c.ability, "drawn") for c in CHECKS}
    assert report_of(Knowing(drawn)).good
    broken = report_of(Knowing(drawn | {("boxes", "rendered")}))
    assert not broken.good and verdicts(broken)["dial, drawn"] == EXPLAINED
    assert verdicts(broken)["text, drawn"] == EXPLAINED and verdicts(broken)["boxes, rendered"] == FAILED

    blind = report_of(Knowing(drawn | {(ability, "rendered") for ability in ("boxes", "box of one", "point")}))
    assert verdicts(blind)["dial, drawn"] == FAILED, "what finds nothing excuses nothing"


def test_guidance_that_loses_what_was_found_without_it_is_a_failure_and_a_missing_package_is_none():
    lost = report_of(Knowing({(GUIDED, "rendered")} | {(c.ability, "drawn") for c in CHECKS}))
    assert verdicts(lost)[f"{GUIDED}, rendered"] == FAILED
    absent = report_of(Knowing(guided=False))
    assert absent.good and verdicts(absent)[f"{GUIDED}, rendered"] == EXPLAINED


def test_time_that_runs_out_ends_the_test_and_proves_nothing(monkeypatch):
    report = report_of(Knowing(), budget_s=0.0)
    assert not report.good and report.count(EXPLAINED) == len(report.outcomes)
    assert "Nothing was proven" in verdict(report)
    now = [0.0]
    monkeypatch.setattr(sys.modules[examine.__module__], "time", SimpleNamespace(monotonic=lambda: now[0]))
    some = report_of(Knowing(asked=lambda: now.append(now.pop() + 300.0)), budget_s=1000.0)
    assert some.count(PASSED) == 4 < len(CHECKS) and not some.count(FAILED)


# -- the command, and its pictures -------------------------------------------------------------------------------


def test_the_last_line_is_for_scripts(capsys, embedded):
    status = main(["selftest", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 0 and lines[-1] == json.loads(summary(embedded))
    assert set(lines[-1]) == {"passed", "failed", "explained", "engine"} and lines[-1]["engine"] == "onnxruntime"
    assert lines[0]["runtime"] == "onnxruntime" and lines[0]["answers"] == len(CHECKS)
    assert [line["name"] for line in lines[1:-1]] == [o.name for o in embedded.outcomes]


def test_a_model_that_does_not_load_is_bad_input(capsys):
    assert main(["selftest", "--model", "/nowhere"]) == 2 and "/nowhere" in capsys.readouterr().err


def test_the_shipped_pictures_are_those_that_the_simulator_draws():
    from qwen3vl_ros.selftest import render

    told = json.loads(pictures.TRUTH.read_text(encoding="utf-8"))
    for name, view in render.views().items():
        assert told[name] == json.loads(json.dumps(render.truth(name, view)))
        shipped = pictures.rendered(name).rgb
        assert np.abs(shipped.astype(int) - view.rgb).mean() < 3


def test_what_is_drawn_stands_where_the_truth_says():
    shapes, paper = pictures.drawn_shapes(), pictures._PAPER
    for _, (x0, y0, x1, y1) in shapes.boxes:
        inked = (shapes.rgb[y0:y1, x0:x1] != paper).any(2)
        ys, xs = np.nonzero(inked)
        assert (xs.min(), ys.min()) <= (2, 2) and xs.max() >= x1 - x0 - 3 and ys.max() >= y1 - y0 - 3
    word, (x0, y0, x1, y1) = pictures.drawn_text().text
    ys, xs = np.nonzero((pictures.drawn_text().rgb != paper).any(2))
    assert abs(xs.min() - x0) < 20 and abs(xs.max() - x1) < 20 and abs(ys.min() - y0) < 30 and abs(ys.max() - y1) < 30
