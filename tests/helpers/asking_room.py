"""A room for questions over real DDS: the node with an oracle for a model, a camera that shows exact solids, and a client of ~/ask and
~/measure.
"""

from __future__ import annotations

import json
import os

import numpy as np
from depth_scenes import Scene
from rclpy.action import ActionClient
from rclpy.node import Node
from ros_graph import START_PATIENCE_S, FakeCamera, Graph, until

from qwen3vl_ros.action import Ask
from qwen3vl_ros.msg import Fact
from qwen3vl_ros.node.goals import result_of, send_goal
from qwen3vl_ros.srv import Measure

NAME = "/qwen3vl/perception"


class Asked:
    """A goal of ~/ask, its feedback and, once it is there, its result."""

    def __init__(self, node: Node, client: ActionClient, question: str, **fields):
        self.deltas = []
        goal = Ask.Goal(question=question, **fields)
        sent = send_goal(node, client, goal, lambda m: self.deltas.append(m.feedback))
        until(sent.done, what="an answer to the goal")
        self.handle = sent.result()
        assert self.handle.accepted
        self._future = result_of(node, self.handle)

    @property
    def done(self):
        return self._future.done()

    def result(self):
        until(self._future.done, what="the result")
        self.status = self._future.result().status
        return self._future.result().result

    def cancel(self):
        asked = self.handle.cancel_goal_async()
        until(asked.done, what="an answer to the cancel")
        return asked.result()


def tell(path, told: dict) -> None:
    """What the oracle says from now on. It may look at any moment, and never finds half a file."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(told, ensure_ascii=False))
    os.replace(new, path)


def textured(scene: Scene) -> np.ndarray:
    """A picture that points can be followed in; grey, as the solids have any colour that a test calls them by."""
    height, width = scene.depth_m.shape
    coarse = np.random.default_rng(0).integers(40, 216, (height // 6 + 1, width // 6 + 1, 1), np.uint8)
    return np.ascontiguousarray(coarse.repeat(6, 0).repeat(6, 1).repeat(3, 2)[:height, :width])


class Room:
    """A node whose engine is an oracle, a camera that shows solids, and a client."""

    def __init__(self, graph: Graph, folder, **parameters):
        self.graph, self.path = graph, folder / "oracle.json"
        self.say(boxes={})
        given = {"targets": None, "enabled": False, **parameters}
        self.process = graph.start_node("oracle", env={"ORACLE": str(self.path)}, **given)
        self.client = ActionClient(graph.node, Ask, f"{NAME}/ask")
        assert self.client.wait_for_server(START_PATIENCE_S)
        self.camera = FakeCamera(graph, depth=parameters.get("use_depth", True)).matched()

    def say(self, **told):
        tell(self.path, told)

    def show(self, scene: Scene, names, also={}, **told):
        """A scene of the camera from now on; names: of its solids, which the oracle then finds; also: further boxes."""
        boxes = {}
        for index, name in enumerate(names):
            if name:
                boxes.setdefault(name, []).append(scene.box_px(index))
        self.say(boxes=boxes | also, **told)
        self.camera.stop()
        self.camera.stream(10, rgb=textured(scene), depth_m=scene.depth_m, info_K=scene.K)
        self.sees_it()

    def sees_it(self):
        """Wait until the node has a picture of what the camera shows now, with its depth where there is any."""
        now = self.graph.node.get_clock().now().to_msg()

        def seen():
            told = self.measure(["size", "table"], newer_than=now)
            return told.success and (self.camera.depth is None or told.facts[0].verdict == Fact.TRUE)

        until(seen, what="a new picture")

    def ask(self, question, **fields):
        return Asked(self.graph.node, self.client, question, **fields)

    def answer(self, question, **fields):
        return self.ask(question, **fields).result()

    def measure(self, *asked, **fields):
        facts = [Fact(relation=r, arguments=list(a)) for r, *a in asked]
        return self.graph.call(Measure, f"{NAME}/measure", Measure.Request(facts=facts, **fields))
