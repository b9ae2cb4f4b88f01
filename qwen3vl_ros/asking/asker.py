"""The three passes from a question to an answer: understand it, find and measure what it speaks of, tell it in words.

Cheap ways first: the grammar reads common questions, and only what it does not read goes to the model; what nobody can measure goes
to the model as it is, with the picture. The model's sentence counts where it says what was measured; else the rules write one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Sequence

from qwen3vl_ros.asking import measuring
from qwen3vl_ros.asking.finding import Finder, Found, Shot, canonical, usable
from qwen3vl_ros.asking.measuring import Conclusion
from qwen3vl_ros.asking.outcome import Code, Measurement, Outcome, Who
from qwen3vl_ros.asking.sessions import Session
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Limits, Prompt
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Ask, Gauge, Question, ReadText, Tell, Understand, grammar, phrases
from qwen3vl_ros.questions.tell import fact_line
from qwen3vl_ros.questions.understand import Understood
from qwen3vl_ros.questions.wording import Said, contradiction, line, sentence
from qwen3vl_ros.types import Cancelled, DeadlinePassed, Fact, Generation, InvalidInput, MalformedAnswer, View

_SHORT = 128  # tokens of a parsed question, and of a sentence
_LANGUAGE_THING = {"en": "object", "zh": "物体"}


class Asker:
    """Asks a Perception. One thread at a time, as that."""

    def __init__(self, perception: Perception):
        self._perception, self._finder = perception, Finder(perception)

    # -- facts alone ---------------------------------------------------------------------------------------------------

    def measure(self, shot: Shot, asked: Sequence[Fact], control: Control | None = None) -> Measurement:
        """Measure statements in one picture; asked: relation, arguments and view of each. Arguments that are ids of known things are
        not looked for. Raises InvalidInput for what cannot be asked, and what finding raises.
        """
        asked = [replace(f, arguments=tuple(map(canonical, f.arguments)), view=f.view or "viewer") for f in asked]
        names: dict[str, None] = {}
        for fact in asked:
            facts.check(fact.relation, fact.arguments, fact.view)
            names |= dict.fromkeys(facts.things_named(fact.relation, fact.arguments))
        found = self._finder.find(shot, tuple(names), control)
        told = tuple(facts.measure(found.layout, f.relation, f.arguments, f.view) for f in asked)
        return Measurement(told, found.detections_2d, found.detections_3d)

    # -- a question in words -------------------------------------------------------------------------------------------

    def ask(
        self,
        shots: Sequence[Shot],
        question: str,
        session: Session | None = None,
        view: str = "",
        measure: bool = True,
        control: Control | None = None,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Outcome:
        """Answer a question about one or several pictures. session: what was asked before; it is added to. view: whose left and front
        is meant where the question does not say. measure: False leaves it to the model alone. on_text: given the answer as it grows; one
        that rests on facts comes when it was checked against them.

        Raises InvalidInput, Cancelled, DeadlinePassed, MalformedAnswer, EngineError.
        """
        if not shots:
            raise InvalidInput("there is no picture to ask of; give one, or name a camera")
        question, session = phrases.checked_question(question), session or Session()
        language = grammar.language_of(question)
        asked, reader, read_from = self.understood(question, session, control) if measure else (None, Who.NOBODY, None)
        asked = asked and asked._replace(view=asked.view or view)
        if asked is not None and measuring.is_measured(asked):
            outcome = self._measured(shots, question, language, asked, control)
            on_text(outcome.answer)
        elif asked is not None and asked.ask in ("reading", "text"):
            outcome = self._read_off(shots[0], language, asked, control)
            on_text(outcome.answer)
        else:
            outcome = self._free(shots, question, session, control, on_text)
        told = () if asked is None else asked.find
        outcome = replace(outcome, understood_by=reader, asked=asked.ask if asked else "", find=told)
        outcome = replace(outcome, generation=outcome.generation or read_from)
        session.add(question, [shot.frame.rgb for shot in shots], outcome.answer, asked)
        return outcome

    # -- understand ----------------------------------------------------------------------------------------------------

    def understood(
        self, question: str, session: Session | None = None, control: Control | None = None
    ) -> tuple[Understood | None, Who, Generation | None]:
        """What is asked, who read it, and the model's words if it was the model; None where it must be asked as it is."""
        session = session or Session()
        if asked := grammar.understood(question, session.before):
            return asked, Who.RULES, None
        rest, view = grammar.without_view(question)
        understand = Understand(rest or question, session.question if session.before else "")
        generation = self._generate(understand, control, guided=True)
        try:
            asked = understand.read(generation, ()).value
        except MalformedAnswer:
            return None, Who.NOBODY, generation
        known = f"{question} {session.question} {' '.join(session.before.find if session.before else ())}".lower()
        said = all(name.lower() in known or name in _LANGUAGE_THING.values() for name in asked.find)
        if asked.ask == "unknown" or not said or not measuring.is_whole(asked) or not _nameable(asked):
            return None, Who.NOBODY, generation
        return asked._replace(view=view), Who.MODEL, generation

    # -- find and measure ----------------------------------------------------------------------------------------------

    def _measured(
        self, shots: Sequence[Shot], question: str, language: str, asked: Understood, control: Control | None
    ) -> Outcome:
        anything = self._anything(asked, language)
        found = [self._finder.find(shot, measuring.to_find(asked), control, anything) for shot in shots]
        concluded = [(self._conclude(asked, f), f) for f in found]
        conclusion, best = max(concluded, key=lambda cf: _worth(cf[0]))  # the first of equals
        outcome = Outcome(
            sentence(language, asked, conclusion.said),
            conclusion.code,
            facts=conclusion.facts,
            worded_by=Who.RULES,
            detections_2d=tuple(f.detections_2d for f in found),
            detections_3d=tuple(f.detections_3d for f in found),
            generation=best.generation,
        )
        if conclusion.said.kind in ("absent", "ambiguous", "blind"):
            return replace(outcome, message=sentence("en", asked, conclusion.said))
        return self._told(question, asked, conclusion, best, outcome, control)

    def _anything(self, asked: Understood, language: str) -> tuple[str, ...]:
        """What counts as a thing at all, beside what is named: what this camera looks for."""
        return self._perception.config.targets if measuring.needs_everything(asked) else ()

    def _conclude(self, asked: Understood, found: Found) -> Conclusion:
        conclusion = measuring.conclude(asked, found)
        looked = asked.ask in ("exists", "count", "list") or conclusion.code is Code.NOT_FOUND
        if not looked and (why := usable(found.shot, self._perception)):
            shot = found.shot
            code = {"pose": Code.TF, "stale": Code.STALE, "depth": Code.NO_DEPTH}[shot.lacking]
            return Conclusion(Said("blind", reason=why), conclusion.facts, code)
        return conclusion

    # -- tell ----------------------------------------------------------------------------------------------------------

    def _told(
        self,
        question: str,
        asked: Understood,
        conclusion: Conclusion,
        found: Found,
        outcome: Outcome,
        control: Control | None,
    ) -> Outcome:
        """The model's sentence where it says what was measured; the rules' one stands otherwise, and what the model said is told."""
        said = conclusion.said
        tell = Tell(question, (fact_line(asked.ask, asked.find, line(asked, said)),))
        try:
            generation = self._generate(tell, control)
        except DeadlinePassed:
            return outcome  # the answer is there, only not in the model's words
        text = " ".join(generation.text.split())
        others = tuple(t.label for t in found.layout.things if t.label not in said.names)
        agrees, against = contradiction(text, asked, said, others)
        if agrees and generation.finish_reason == "stop":
            return replace(outcome, answer=text, worded_by=Who.MODEL, generation=generation)
        return replace(outcome, model_answer=text, disagreement=against, generation=generation)

    def _read_off(self, shot: Shot, language: str, asked: Understood, control: Control | None) -> Outcome:
        """What a dial or a sign says, by the questions that are made for that."""
        question: Question = Gauge() if asked.ask == "reading" else ReadText()
        generation = self._perception.generate(shot.frame, question, control, camera=shot.camera)
        answer = self._perception.read(question, generation, View(shot.frame.size_px))
        zh = language == "zh"
        if asked.ask == "reading":
            value = f"{answer.value.value:g} {answer.value.unit}".strip() if answer.value else ""
            text = (f"读数是{value}。" if zh else f"It reads {value}.") if value else ""
        else:
            lines = "; ".join(d.label for d in answer.detections)
            text = (f"上面写着：{lines}。" if zh else f"It says: {lines}.") if lines else ""
        code = Code.OK if text else Code.NOT_FOUND
        text = text or ("没有看到可以读的内容。" if zh else "I see nothing there that can be read.")
        return Outcome(
            text,
            code,
            worded_by=Who.RULES,
            detections_2d=(answer.detections,),
            detections_3d=((),),
            generation=generation,
        )

    def _free(
        self,
        shots: Sequence[Shot],
        question: str,
        session: Session,
        control: Control | None,
        on_text: Callable[[str], None],
    ) -> Outcome:
        """The model's own answer, with the pictures and what was said before."""
        config = self._perception.config.generation
        prompt = Prompt(
            question, [shot.frame.rgb for shot in shots], history=session.turns, text_first=config.text_first
        )
        generation = self._perception.engine.generate(prompt, Limits.of(config), control, on_text)
        if generation.finish_reason == "cancelled":
            raise Cancelled(control.reason if control else "cancelled")
        code = Code.TIMEOUT if generation.finish_reason == "deadline" else Code.OK
        message = "the time was over before the answer was whole" if code else ""
        boxes = ()
        if len(shots) == 1 and code is Code.OK:
            boxes = Ask(question).read(generation, (View(shots[0].frame.size_px),)).detections
        none = ((),) * len(shots)
        return Outcome(
            generation.text,
            code,
            message,
            worded_by=Who.MODEL,
            detections_2d=(boxes, *none[1:]),
            detections_3d=none,
            generation=generation,
        )

    def _generate(self, question: Question, control: Control | None, guided: bool = False) -> Generation:
        """An answer of words alone."""
        config = self._perception.config.generation
        limits = replace(Limits.of(config), max_new_tokens=min(_SHORT, config.max_new_tokens))
        prompt = Prompt(question.prompt(), schema=question.schema() if guided else None)
        generation = self._perception.engine.generate(prompt, limits, control)
        if generation.finish_reason == "cancelled":
            raise Cancelled(control.reason if control else "cancelled")
        if generation.finish_reason == "deadline":
            raise DeadlinePassed("the time was over before the question was answered; allow it more")
        return generation


def _nameable(asked: Understood) -> bool:
    """Whether each name could be looked for."""
    try:
        for name in asked.find:
            phrases.checked_targets((name,), "ask")
    except InvalidInput:
        return False
    return True


def _worth(conclusion: Conclusion) -> tuple[int, float]:
    """Which of several pictures' conclusions says most: one that decides before one that cannot tell."""
    decided = (
        conclusion.said.truth is not None
        or bool(conclusion.said.names)
        or bool(conclusion.said.numbers_m)
        or bool(conclusion.said.count)
    )
    order = (Code.NOT_FOUND, Code.NO_DEPTH, Code.STALE, Code.TF, Code.AMBIGUOUS, Code.OK)
    return order.index(conclusion.code), decided
