"""Perception.look(frame, question) -> Scene, a line a stage: ask, read, name, lift, grasp."""

from __future__ import annotations

import functools
import itertools
import time
from typing import Callable, Hashable, Iterator, Mapping, Sequence

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
from qwen3vl_ros.questions import Question
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
    MalformedAnswer,
    Scene,
    View,
)


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
    ) -> Scene:
        """Ask `question` of `frame`. on_text: given the answer's text as it grows (see Engine.generate). prompt_id travels
        to the result; tracks of different ones never meet. camera: whose picture it is where there are several, whatever
        their frames; their tracks and drafts never meet.

        Raises Cancelled if `control` was cancelled, DeadlinePassed if time ran out before anything could be read,
        MalformedAnswer if the answer cannot be read, EngineError.
        """
        generation = self.generate(frame, question, control, on_text, camera)
        return self.interpret(frame, question, generation, prompt_id, camera)

    def generate(
        self,
        frame: Frame,
        question: Question,
        control: Control | None = None,
        on_text: Callable[[str], None] | None = None,
        camera: str = "",
    ) -> Generation:
        """The model's part of `look`. Raises Cancelled, EngineError."""
        how = self.config.generation
        prompt = Prompt(
            question.prompt(),
            [frame.rgb] if question.pictured else (),
            schema=question.schema() if how.guided else None,
            stream=camera or frame.frame_id,
            text_first=how.text_first,
        )
        generation = self.engine.generate(prompt, Limits.of(how), control, on_text)
        if generation.finish_reason == "cancelled":
            raise Cancelled(control.reason if control else "cancelled")
        return generation

    def place(
        self, frame: Frame, prompt: Hashable, detections: Sequence[Detection2D], camera: str = ""
    ) -> tuple[tuple[Detection2D, ...], Lifted, SceneCloud]:
        """The detections of an answer with their ids, lifted with the frame's depth, and that depth. prompt: what was asked, as for
        TrackIds."""
        detections = self._named(frame, prompt, detections, camera)
        cloud = SceneCloud.of(frame, self.config.lift)
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
        generation: Generation,
        prompt_id: int = 0,
        camera: str = "",
        grasps: bool = True,
    ) -> Scene:
        """The geometry of an answer already given: everything `look` does after the model. grasps: whether anybody wants them;
        they cost more than all else.

        Raises DeadlinePassed, MalformedAnswer.
        """
        started = time.perf_counter()
        answer = self.read(question, generation, View(frame.size_px))
        detections = tuple(d for d in answer.detections if not d.score < self.config.min_score)
        detections, lifted, cloud = self.place(frame, (prompt_id, question), detections, camera)
        placed = place_model_boxes(frame, answer.boxes_3d)
        planned = plan_grasps(cloud, lifted.detections, self.config.gripper) if grasps else ()
        return Scene(
            frame.stamp_ns,
            frame.frame_id,
            question,
            generation,
            detections,
            answer.points,
            lifted.detections + placed.detections,
            lifted.refusals + placed.refusals,
            planned,
            answer.value,
            answer.dropped,
            time.perf_counter() - started,
            prompt_id,
        )

    def _named(self, frame: Frame, prompt: Hashable, detections: Sequence[Detection2D], camera: str):
        """The detections with the ids of what they are."""
        if camera in self._tracks:
            return self._tracks[camera].assign(frame, prompt, detections)
        names = self._names.setdefault(camera, TrackIds(self._ids))
        return names.assign(frame.stamp_ns, prompt, detections)

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
