"""Perception.look(frame, question) -> Scene, a line a stage: ask, read, name, lift, grasp."""

from __future__ import annotations

import functools
import itertools
import time
from typing import Callable, Hashable, Iterator, Mapping, NamedTuple, Sequence

from qwen3vl_ros import threads
from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.engine.base import Engine, Limits, Prompt
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.geometry.lifted import Lifted
from qwen3vl_ros.geometry.model_boxes import place_model_boxes
from qwen3vl_ros.geometry.observed import thing_of
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.questions import Detect, Question
from qwen3vl_ros.tracking.identity import TrackIds
from qwen3vl_ros.tracking.tracks import Tracks
from qwen3vl_ros.tracking.world import World
from qwen3vl_ros.types import (
    Answer,
    Cancelled,
    DeadlinePassed,
    Detection2D,
    Frame,
    Generation,
    InvalidInput,
    MalformedAnswer,
    NotFound,
    Scene,
    View,
)
from qwen3vl_ros.zoom import WHOLE, Zoom, joined, merged, shown


class Look(NamedTuple):
    """What the model said to one view."""

    view: View
    generation: Generation


class Perception:
    """The whole path from a frame to grasp targets. One thread at a time, because the engine is.

    ids: where objects get theirs from; several Perceptions that share one never give the same twice. tracks: of the cameras
    whose things are followed from picture to picture: they give the ids there, and are told of every answer. world: told of all
    that was measured.
    """

    def __init__(
        self,
        engine: Engine,
        config: Config | None = None,
        ids: Iterator[int] | None = None,
        tracks: Mapping[str, Tracks] | None = None,
        world: World | None = None,
    ):
        threads.settle()
        self.engine = engine
        self.config = config or Config()
        self._ids = ids or itertools.count(1)
        self._tracks, self._world = dict(tracks or {}), world
        self._names: dict[str, TrackIds] = {}

    def forget(self) -> None:
        """Nothing seen so far is what is seen next: the time of the pictures began again. Any thread; ids go on counting.
        Followed things are forgotten by who follows them.
        """
        self._names = {}

    def look(
        self,
        frame: Frame,
        question: Question,
        control: Control | None = None,
        on_text: Callable[[str], None] | None = None,
        prompt_id: int = 0,
        camera: str = "",
        zoom: Zoom = WHOLE,
    ) -> Scene:
        """Ask `question` of `frame`, or of parts of it; places are pixels of the whole picture all the same. on_text: given
        the answer's text as it grows (see Engine.generate). prompt_id travels to the result; tracks of different ones never meet. camera: whose picture it is where there are several, whatever
        their frames; their tracks and drafts never meet.

        Raises Cancelled if `control` was cancelled, DeadlinePassed if time ran out before anything could be read,
        MalformedAnswer if the answer cannot be read, NotFound if there is nothing to zoom at, InvalidInput for a zoom that the
        picture or the question does not allow, EngineError.
        """
        looks = self.ask(frame, question, control, on_text, camera, zoom)
        return self.interpret(frame, question, looks, prompt_id, camera, zoom)

    def ask(
        self,
        frame: Frame,
        question: Question,
        control: Control | None = None,
        on_text: Callable[[str], None] | None = None,
        camera: str = "",
        zoom: Zoom = WHOLE,
    ) -> tuple[Look, ...]:
        """The model's part of `look`: what it says to each view. Raises as `look`, but never MalformedAnswer for `question`."""
        if zoom != WHOLE and not question.zooms:
            raise InvalidInput(f"{question.name} needs the whole picture; leave the zoom out")
        found: tuple[Detection2D, ...] = ()
        if zoom.around:
            first, whole = Detect(zoom.around), View(frame.size_px)
            found = self.read(first, self.generate(frame, first, control, camera=camera), whole).detections
            if not found:
                raise NotFound(f"looked for {', '.join(zoom.around)} to look at closely and saw none")
        views = zoom.views(frame.size_px, found)
        return tuple(Look(view, self.generate(frame, question, control, on_text, camera, view)) for view in views)

    def ask_together(
        self,
        frames: Sequence[Frame],
        question: Question,
        control: Control | None = None,
        camera: str = "",
        view: View | None = None,
    ) -> Generation:
        """What the model says to one view of several frames of a camera, oldest first, in one prompt. Raises Cancelled, EngineError."""
        how = self.config.generation
        prompt = Prompt(
            question.prompt(),
            [shown(frame.rgb, view) if view else frame.rgb for frame in frames],
            schema=question.schema() if how.guided else None,
            stream=f"{camera or frames[-1].frame_id}{_place_of(view)}",
            text_first=how.text_first,
        )
        return self._said(prompt, control)

    def generate(
        self,
        frame: Frame,
        question: Question,
        control: Control | None = None,
        on_text: Callable[[str], None] | None = None,
        camera: str = "",
        view: View | None = None,
    ) -> Generation:
        """What the model says to one view. Raises Cancelled, EngineError."""
        return self._said(self.prompt(frame, question, camera, view), control, on_text)

    def prompt(self, frame: Frame, question: Question, camera: str = "", view: View | None = None) -> Prompt:
        """What the engine is asked for one view."""
        how = self.config.generation
        return Prompt(
            question.prompt(),
            [shown(frame.rgb, view) if view else frame.rgb] if question.pictured else (),
            schema=question.schema() if how.guided else None,
            stream=f"{camera or frame.frame_id}{_place_of(view)}",
            text_first=how.text_first,
        )

    def _said(
        self, prompt: Prompt, control: Control | None, on_text: Callable[[str], None] | None = None
    ) -> Generation:
        generation = self.engine.generate(prompt, Limits.of(self.config.generation), control, on_text)
        if generation.finish_reason == "cancelled":
            raise Cancelled(control.reason if control else "cancelled")
        return generation

    def place(
        self,
        frame: Frame,
        prompt: Hashable,
        detections: Sequence[Detection2D],
        camera: str = "",
        cloud: SceneCloud | None = None,
    ) -> tuple[tuple[Detection2D, ...], Lifted, SceneCloud]:
        """The detections of an answer with their ids, lifted with the frame's depth, and that depth. prompt: what was asked, as for
        TrackIds. cloud: the frame's, where somebody has measured in it already."""
        detections = self._named(frame, prompt, detections, camera)
        cloud = cloud or SceneCloud.of(frame, self.config.lift)
        lifted = lift_boxes(cloud, detections)
        if camera in self._tracks:
            self._tracks[camera].place(frame.stamp_ns, lifted.detections)
        if self._world is not None and cloud.usable:
            measured = functools.partial(thing_of, cloud)
            self._world.look(camera, prompt, frame.stamp_ns, lifted.detections, measured)
        return detections, lifted, cloud

    def interpret(
        self,
        frame: Frame,
        question: Question,
        said: Generation | Sequence[Look],
        prompt_id: int = 0,
        camera: str = "",
        zoom: Zoom = WHOLE,
        grasps: bool = True,
        thorough: bool = True,
        most: int = 1,
    ) -> Scene:
        """The geometry of an answer already given: everything `look` does after the model. said: a Generation is of the whole
        picture. grasps: whether anybody wants them; they cost more than all else. thorough, most: as plan_grasps.

        Raises DeadlinePassed, MalformedAnswer.
        """
        started = time.perf_counter()
        looks = (Look(View(frame.size_px), said),) if isinstance(said, Generation) else tuple(said)
        views = tuple(look.view for look in looks)
        answer = self.answer_of(question, looks, zoom)
        detections = tuple(d for d in answer.detections if not d.score < self.config.min_score)
        lifted, planned = Lifted(), ()
        if not question.reads_text:  # a sign that says "red mug" is no red mug, least of all for whoever follows things
            detections, lifted, cloud = self.place(frame, (prompt_id, question), detections, camera)
            planned = plan_grasps(cloud, lifted.detections, self.config.gripper, thorough, most) if grasps else ()
        placed = place_model_boxes(frame, answer.boxes_3d)
        return Scene(
            frame.stamp_ns,
            frame.frame_id,
            question,
            joined([look.generation for look in looks]),
            detections,
            answer.points,
            lifted.detections + placed.detections,
            lifted.refusals + placed.refusals,
            planned,
            answer.value,
            answer.dropped,
            time.perf_counter() - started,
            prompt_id,
            views,
        )

    def _named(self, frame: Frame, prompt: Hashable, detections: Sequence[Detection2D], camera: str):
        """The detections with the ids of what they are."""
        if camera in self._tracks:
            return self._tracks[camera].assign(frame, prompt, detections)
        names = self._names.setdefault(camera, TrackIds(self._ids))
        return names.assign(frame.stamp_ns, prompt, detections)

    @staticmethod
    def answer_of(question: Question, looks: Sequence[Look], zoom: Zoom) -> Answer:
        """One answer of what was said to several views. Raises as `read`."""
        return merged(_read_all(question, looks), tuple(look.view for look in looks), zoom)

    @staticmethod
    def read(question: Question, generation: Generation, view: View) -> Answer:
        """As Question.read; but where time ran out, that is the error, and not what the answer had come to."""
        try:
            return question.read(generation, (view,))
        except MalformedAnswer as error:
            if generation.finish_reason != "deadline":
                raise
            said = f"{generation.text[-80:]!r} at its end" if generation.text.strip() else "nothing"
            raise DeadlinePassed(
                f"the deadline passed before an object could be read; after {generation.total_s:.1f} s the answer was {said}: "
                "allow it more time (a call's timeout, generation.deadline), or ask for less"
            ) from error


def _place_of(view: View | None) -> str:
    """A camera's drafts are of one place: the answer about a part of its picture is none about another."""
    return f" {view.region_xyxy_px}" if view and view.region_xyxy_px else ""


def _read_all(question: Question, looks: Sequence[Look]) -> list[Answer]:
    """What was said to each view. Of several, one that cannot be read says nothing, and is counted; raises where none can be."""
    answers, errors = [], []
    for look in looks:
        try:
            answers.append(Perception.read(question, look.generation, look.view))
        except (MalformedAnswer, DeadlinePassed) as error:
            errors.append(error)
            answers.append(Answer(dropped=max(1, getattr(error, "dropped", 0)), notes=(str(error),)))
    if len(errors) == len(looks):
        raise errors[0]
    return answers
