"""Perception.run(frame, request) -> Scene, a line per stage: prompt, generate, read, lift, grasp."""

from __future__ import annotations

import time

from qwen3vl_ros.config import Config
from qwen3vl_ros.engine.base import Engine
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.lift import lift_boxes, place_model_boxes
from qwen3vl_ros.grasping.grasps import plan_grasps
from qwen3vl_ros.questions.parsing.objects import read_answer
from qwen3vl_ros.questions.prompts import prompt_for
from qwen3vl_ros.questions.schemas import schema_for
from qwen3vl_ros.tracking.identity import TrackIds
from qwen3vl_ros.types import Cancelled, Control, Frame, Generation, Request, Scene


class Perception:
    """The whole path from a frame to grasp targets. One thread at a time, because the engine is."""

    def __init__(self, engine: Engine, config: Config | None = None):
        self.engine = engine
        self.config = config or Config()
        self._tracks = TrackIds()

    def run(self, frame: Frame, request: Request, control: Control | None = None) -> Scene:
        """Look at `frame`, answer `request`.

        Raises Cancelled if `control` was cancelled, MalformedAnswer if the answer cannot be read, EngineError.
        """
        return self.interpret(frame, request, self.generate(frame, request, control))

    def generate(self, frame: Frame, request: Request, control: Control | None = None) -> Generation:
        """The model's part of `run`. Raises Cancelled, InvalidInput for a phrase no prompt can hold, EngineError."""
        schema = schema_for(request) if self.config.generation.guided else None
        generation = self.engine.generate(
            [frame.rgb], prompt_for(request), control, stream=frame.frame_id, schema=schema
        )
        if generation.finish_reason == "cancelled":
            raise Cancelled(control.reason if control else "cancelled")
        return generation

    def interpret(self, frame: Frame, request: Request, generation: Generation) -> Scene:
        """The geometry of an answer already given: everything `run` does after the model."""
        started = time.perf_counter()
        answer = read_answer(generation, request, frame.size_px)
        detections = tuple(d for d in answer.detections if not d.score < self.config.min_score)
        detections = self._tracks.assign(frame.stamp_ns, request, detections)
        cloud = SceneCloud.of(frame, self.config.lift)
        lifted = lift_boxes(cloud, detections)
        placed = place_model_boxes(frame, answer.boxes_3d)
        grasps = plan_grasps(cloud, lifted.detections, self.config.gripper)
        return Scene(
            frame.stamp_ns,
            frame.frame_id,
            request,
            generation,
            detections,
            answer.points,
            lifted.detections + placed.detections,
            lifted.refusals + placed.refusals,
            grasps,
            answer.dropped,
            time.perf_counter() - started,
        )
