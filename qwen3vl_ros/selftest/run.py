"""Asks everything, and weighs the outcomes against each other: passed, failed, or explained by something the test has shown.

A wrong answer is explained where the same engine has proven itself otherwise: the ability shows on the other kind of
picture, or the model knows a small world only and everything of that world is right. What nothing explains is a failure.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import Sequence

from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Engine, EngineInfo
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.selftest.checks import GUIDED, KNOWLEDGE, Check, all_checks
from qwen3vl_ros.selftest.parity import compare
from qwen3vl_ros.types import DeadlinePassed, EngineError, Frame, Generation, MalformedAnswer, PerceptionError

PASSED, FAILED, EXPLAINED = "passed", "failed", "explained"
BUDGET_S = 100.0  # from the first question on, the comparison with the reference included
_MAX_NEW_TOKENS = 320
# Of the rendered world: who gets three of these right sees, reads prompts and speaks in the right coordinates.
_CORE = ("boxes", "box of one", "absent", "point")
_PROVEN = 3
_KINDS = {"drawn": "rendered", "rendered": "drawn"}


@dataclass
class Outcome:
    """Of one check. form: "read", "malformed", "cut short" or, where nothing was asked, "". found: in words. why: what
    explains it, or the error."""

    name: str
    ability: str
    kind: str
    verdict: str
    form: str
    found: str
    why: str = ""
    generation: Generation | None = None


@dataclass
class Report:
    """Everything that the page says. peak_gb: of this process, and of the GPU where torch runs on one (else nan)."""

    info: EngineInfo
    outcomes: list[Outcome]
    load_s: float
    asked_s: float
    peak_gb: float
    gpu_peak_gb: float

    def count(self, verdict: str) -> int:
        return sum(o.verdict == verdict for o in self.outcomes)

    @property
    def good(self) -> bool:
        return not self.count(FAILED) and self.count(PASSED) > 0


def run(config: Config, budget_s: float = BUDGET_S) -> Report:
    """Load the engine that `config` asks for, and test it. Raises PerceptionError where none loads."""
    started = time.perf_counter()
    engine = load_tested_engine(config)
    try:
        return examine(engine, config, time.perf_counter() - started, budget_s)
    finally:
        engine.close()


def examine(
    engine: Engine, config: Config, load_s: float = 0.0, budget_s: float = BUDGET_S, reference: bool = True
) -> Report:
    """Test an engine that was loaded with `config`; load_s: how long that took. reference: compare its tokens, too."""
    config = replace(config, generation=replace(config.generation, max_new_tokens=_MAX_NEW_TOKENS, deadline=3600.0))
    began, checks = time.monotonic(), all_checks()
    end_s = began + budget_s
    outcomes = [_ask(engine, config, check, end_s) for check in checks]
    _weigh(outcomes)
    outcomes.append(_again(engine, config, checks[0], outcomes[0], end_s))
    peak_gb, gpu_peak_gb = _peaks_gb()
    if reference:
        verdict, found, why = compare(engine.info, config, checks, outcomes, end_s)
        outcomes.append(Outcome("same tokens as transformers", "parity", "", verdict, "", found, why))
    if "self_test" in engine.status():
        outcomes.append(_coordinates(engine.status()["self_test"], outcomes))
    return Report(engine.info, outcomes, load_s, time.monotonic() - began, peak_gb, gpu_peak_gb)


def _ask(engine: Engine, config: Config, check: Check, end_s: float) -> Outcome:
    """The outcome for itself alone: passed, or failed for a reason that `_weigh` may explain."""
    outcome = Outcome(check.name, check.ability, check.picture.kind, FAILED, "", "")
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        return _settle(outcome, EXPLAINED, "", "not asked", "the time of the test was over")
    config = replace(config, generation=replace(config.generation, guided=check.guided))
    frame, heard = Frame(0, check.name, check.picture.rgb), _Heard(engine)
    try:
        scene = Perception(heard, config).look(frame, check.question, Control(left_s))
    except DeadlinePassed:
        _settle(outcome, EXPLAINED, "cut short", "no answer", "the time of the test was over")
    except MalformedAnswer as error:
        _settle(outcome, FAILED, "malformed", f"said {error.text[:40]!r}")
    except PerceptionError as error:
        cannot = (
            check.guided and isinstance(error, EngineError) and ("schema" in str(error) or "llguidance" in str(error))
        )
        _settle(outcome, EXPLAINED if cannot else FAILED, "", "no answer", str(error))
    else:
        right, found = check.judge(scene)
        form = "cut short" if scene.truncated else "read"
        _settle(outcome, PASSED if right and form == "read" else FAILED, form, found)
        if scene.generation.finish_reason == "deadline":
            _settle(outcome, EXPLAINED, form, found, "the time of the test was over")
    outcome.generation = heard.last
    return outcome


class _Heard:
    """The engine, and what it said last: a malformed answer took its time, too."""

    def __init__(self, engine: Engine):
        self.info, self._engine, self.last = engine.info, engine, None

    def generate(self, *arguments) -> Generation:
        self.last = self._engine.generate(*arguments)
        return self.last


def _settle(outcome: Outcome, verdict: str, form: str, found: str, why: str = "") -> Outcome:
    outcome.verdict, outcome.form, outcome.found, outcome.why = verdict, form, found, why
    return outcome


def _weigh(outcomes: Sequence[Outcome]) -> None:
    """Turn failures that others explain into explained ones."""
    right = {(o.ability, o.kind) for o in outcomes if o.verdict == PASSED}
    knows = (KNOWLEDGE, "drawn") in right
    proven = sum((ability, "rendered") in right for ability in _CORE) >= _PROVEN
    for o in outcomes:
        if o.verdict != FAILED or o.why or (o.ability == GUIDED and ("boxes", o.kind) in right):
            continue
        if (o.ability, _KINDS[o.kind]) in right and (knows or proven):
            o.verdict, o.why = EXPLAINED, f"right on the {_KINDS[o.kind]} picture: the model does not know this one"
        elif not knows and proven and not (o.kind == "rendered" and o.ability in _CORE):
            o.verdict, o.why = EXPLAINED, "beyond a model that knows a small world only, whose things it finds"


def _again(engine: Engine, config: Config, check: Check, before: Outcome, end_s: float) -> Outcome:
    """The first question once more: drafts must change the passes and not the tokens."""
    outcome = Outcome("the same again", "repeat", "", EXPLAINED, "", "not asked")
    if before.generation is None or end_s - time.monotonic() <= 0:
        return _settle(outcome, EXPLAINED, "", "not asked", "there was no first answer, or no time")
    said = _ask(engine, config, check, end_s).generation
    if said is None:
        return _settle(outcome, FAILED, "", "no answer", "the first time there was one")
    if said.finish_reason == "deadline":
        return _settle(outcome, EXPLAINED, "cut short", "no answer", "the time of the test was over")
    outcome.generation = said
    same = said.text == before.generation.text and said.token_ids == before.generation.token_ids
    passes = f"{before.generation.forward_passes} passes, then {said.forward_passes}"
    found = f"{'the same' if same else 'another'} answer" + f", {passes}" * bool(said.forward_passes)
    return _settle(outcome, PASSED if same else FAILED, "read", found)


def _coordinates(result: str, outcomes: Sequence[Outcome]) -> Outcome:
    """Of a server: what its test at the start found (server_check.py)."""
    outcome = Outcome("coordinates of the server", "coordinates", "", PASSED, "", result)
    if not result.startswith("passed"):
        proven = any(o.verdict == PASSED and o.ability == "boxes" for o in outcomes)
        why = "boxes of this test are right" if proven else "the model finds nothing that they could be seen by"
        _settle(outcome, EXPLAINED, "", result, why)
    return outcome


def _peaks_gb() -> tuple[float, float]:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return own, float("nan")
    return own, max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / 1e9


def as_dict(outcome: Outcome) -> dict:
    """For JSON."""
    told = {f.name: getattr(outcome, f.name) for f in dataclasses.fields(outcome) if f.name != "generation"}
    g = outcome.generation
    return told | ({} if g is None else {"tokens": g.generated_tokens, "seconds": g.total_s, "answer": g.text})
