"""The tools carried out: a call becomes a call of the node over ROS, its reply plain data and pictures.

Everything that can go wrong on the way is a PerceptionError in a sentence. From any thread; knows no protocol.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any, Callable, Iterable, Mapping, Sequence

from action_msgs.srv import CancelGoal

from qwen3vl_ros.action import Ask, FollowInstruction
from qwen3vl_ros.convert import stamp_ns
from qwen3vl_ros.msg import EventArray, Fact, Plan
from qwen3vl_ros.node.client import LATCHED, Client, NoReply, decoded
from qwen3vl_ros.srv import Detect, FindPlace, Inspect, Measure
from qwen3vl_ros.tools import plain
from qwen3vl_ros.tools.catalogue import TOOLS, visible
from qwen3vl_ros.tools.pictures import Marked, NoPicture, Pictures
from qwen3vl_ros.types import InvalidInput, PerceptionError, quoted

CANCEL = "follow_instruction/_action/cancel_goal"  # the service that every action has
LONGEST_S, LONGEST_MOTION_S = 120.0, 3600.0  # for a reply, where the node's own deadline holds
SLACK_S = 5.0  # that a reply may come after its deadline

Arguments = Mapping[str, Any]


class Refused(PerceptionError):
    """The node did not do it; in its own words."""


@dataclass(frozen=True)
class Told:
    """What a tool says. data: as its result schema has it. pictures: JPEG."""

    data: Mapping[str, Any]
    pictures: Sequence[bytes] = ()


@dataclass(frozen=True)
class Caller:
    """Who waits for a tool. gone(): whether he no longer does. progress(text): tells him what is done meanwhile.

    approves(plan): whether a person has said yes to this plan, which is given in words; nobody has, unless you say so.
    """

    gone: Callable[[], bool] = lambda: False
    progress: Callable[[str], None] = lambda text: None
    approves: Callable[[str], bool] = lambda plan: False


class Robot:
    """In the ROS graph from its making to close(). node: the perception node's name within the namespace."""

    def __init__(self, namespace: str = "qwen3vl", node: str = "perception"):
        self._node, self._full_name = node, f"/{namespace.strip('/')}/{node}"
        self._client = Client("tools", namespace)
        for name, kind in (("detect", Detect), ("measure", Measure), ("inspect", Inspect), ("find_place", FindPlace)):
            self._client.use(f"{node}/{name}", kind)
        self._client.use(f"{node}/{CANCEL}", CancelGoal)
        for name, kind in (("ask", Ask), ("follow_instruction", FollowInstruction)):
            self._client.use_action(f"{node}/{name}", kind)
        self._alarms_now: EventArray | None = None
        self._plan_now: Plan | None = None
        self._client.subscribe(f"{node}/alarms", EventArray, self._on_alarms, LATCHED)
        self._client.subscribe(f"{node}/plan", Plan, self._on_plan, LATCHED)
        self._pictures = Pictures(self._client, self._full_name)
        self._client.spin_alone()

    def close(self) -> None:
        """Leave the graph: what moves is told to stop, and whoever waits that the node did not answer."""
        self._client.close()

    def call(self, name: str, arguments: Arguments, caller: Caller = Caller()) -> Told:
        """What a tool of the catalogue says. Raises InvalidInput, NoReply, Refused."""
        if name not in TOOLS:
            raise InvalidInput(f"there is no tool {quoted(name)}; there are {', '.join(TOOLS)}")
        asked = TOOLS[name].check(arguments)
        told = getattr(self, f"_{name}")(asked, caller)
        return replace(told, data=visible(told.data))

    # -- the tools ---------------------------------------------------------------------------------------------

    def _detect(self, asked: Arguments, caller: Caller) -> Told:
        request = Detect.Request(
            targets=asked.get("targets", []),
            camera=asked.get("camera", ""),
            task=asked.get("task", ""),
            around=asked.get("around", []),
            parts=asked.get("parts", 0),
        )
        if "region_xywh_px" in asked:
            r = request.region
            r.x_offset, r.y_offset, r.width, r.height = asked["region_xywh_px"]
        look = lambda: self._service("detect", request, asked, caller)
        reply, show = self._look(asked, request.camera, look, lambda reply: reply.detections_2d.header)
        seen = plain.scene(request.camera, reply.detections_2d, reply.detections_3d, reply.grasp_targets)
        lines = plain.lines(reply.text)
        marks = [*_marks(seen), *(Marked(line["text"], line["box_xyxy_px"]) for line in lines)]
        return show(seen | {"text": lines, "message": reply.message}, marks)

    def _measure(self, asked: Arguments, caller: Caller) -> Told:
        facts = [Fact(relation=f["relation"], arguments=f["arguments"], view=f.get("view", "")) for f in asked["facts"]]
        request = Measure.Request(camera=asked.get("camera", ""), facts=facts)
        look = lambda: self._service("measure", request, asked, caller)
        reply, show = self._look(asked, request.camera, look, lambda reply: reply.detections_2d.header)
        seen = plain.scene(request.camera, reply.detections_2d, reply.detections_3d)
        return show(seen | {"facts": list(map(plain.fact, reply.facts))}, _marks(seen))

    def _ask(self, asked: Arguments, caller: Caller) -> Told:
        goal = Ask.Goal(
            cameras=asked.get("cameras", []),
            session=asked.get("session", ""),
            question=asked["question"],
            measure=asked.get("measure", True),
            view=asked.get("view", ""),
        )
        written: list[str] = []

        def on_part(feedback: Any) -> None:
            written.append(feedback.delta)
            caller.progress("".join(written))

        def ask() -> Any:
            result = self._goal("ask", goal, asked, caller, on_part)
            if not result.detections_2d:  # there was no picture to answer from
                raise Refused(f"the question was not answered: {result.message}")
            return result

        camera = goal.cameras[0] if goal.cameras else ""
        result, show = self._look(asked, camera, ask, lambda result: result.detections_2d[0].header)
        scenes = [plain.scene(*of) for of in zip(goal.cameras or [""], result.detections_2d, result.detections_3d)]
        seen = scenes[0] | {"objects": [o for scene in scenes for o in scene["objects"]]}
        return show(seen | plain.answer(result), _marks(scenes[0]))

    def _readings(self, asked: Arguments, caller: Caller) -> Told:
        request = Inspect.Request(points=asked.get("points", []))
        reply = self._service("inspect", request, asked, caller)
        readings = list(map(plain.reading, reply.readings))
        if not readings:
            return Told({"readings": [], "picture": "none: there is no reading"})
        first = reply.readings[0]  # whose picture is shown, with all that was read in it
        look = lambda: reply
        _, show = self._look(asked, first.camera, look, lambda reply: first.header, again=False)
        marks = [
            Marked(f"{r['point']} {r['quality'] if r['value'] is None else r['value']} {r['unit']}", r["box_xyxy_px"])
            for r, message in zip(readings, reply.readings)
            if r["box_xyxy_px"] and (message.camera, message.header.stamp) == (first.camera, first.header.stamp)
        ]
        return show({"readings": readings}, marks)

    def _alarms(self, asked: Arguments, caller: Caller) -> Told:
        self._find(lambda: self._alarms_now is not None and self._client.is_offered(f"{self._node}/inspect"), caller)
        return Told({"alarms": list(map(plain.alarm, self._alarms_now.events))})

    def _find_place(self, asked: Arguments, caller: Caller) -> Told:
        words = {name: asked[name] for name in ("object", "relation", "reference")}
        request = FindPlace.Request(camera=asked.get("camera", ""), **words)
        look = lambda: self._service("find_place", request, asked, caller)
        reply, show = self._look(asked, request.camera, look, lambda reply: reply.header)
        return show(plain.place_search(reply), ())

    def _plan(self, asked: Arguments, caller: Caller) -> Told:
        goal = FollowInstruction.Goal(instruction=asked["instruction"], camera=asked.get("camera", ""))
        result = self._instruct(goal, asked, caller)
        return Told(plain.plan(result))

    def plan_in_words(self, plan_id: int, revision: int) -> str:
        """The plan as a person reads it before he approves. Raises InvalidInput for one that is not the node's newest."""
        plan = self._plan_now
        if plan is None or (plan.plan_id, plan.revision) != (plan_id, revision):
            newest = f"the newest is plan {plan.plan_id}, revision {plan.revision}" if plan else "there is none yet"
            raise InvalidInput(
                f"there is no plan {plan_id} of revision {revision} to follow: {newest}; make one with plan"
            )
        if not plan.executable:
            raise InvalidInput(f"plan {plan_id} cannot be followed: {visible(plan.question) or 'it is not executable'}")
        return visible(plain.in_words(plan))

    def _follow(self, asked: Arguments, caller: Caller) -> Told:
        if not caller.approves(self.plan_in_words(asked["plan_id"], asked["revision"])):
            raise Refused("nothing moved: no person has approved the plan")
        goal = FollowInstruction.Goal(plan_id=asked["plan_id"], revision=asked["revision"], execute=True)
        result = self._instruct(goal, asked, caller)
        if result.code == FollowInstruction.Result.OK:
            return Told(plain.plan(result))
        raise Refused(f"the plan was not carried out ({plain.ENDS[result.code]}): {result.message}")

    def _instruct(self, goal: Any, asked: Arguments, caller: Caller) -> Any:
        on_step = lambda feedback: caller.progress(
            f"step {feedback.step + 1}: {feedback.state} {feedback.message}".strip()
        )
        return self._goal("follow_instruction", goal, asked, caller, on_step)

    def _cancel(self, asked: Arguments, caller: Caller) -> Told:
        service = f"{self._node}/{CANCEL}"
        self._find(lambda: self._client.is_offered(service), caller)
        everything = CancelGoal.Request()  # no goal and no time: all of them
        stopping = self._client.call(service, everything, SLACK_S).goals_canceling
        said = "they were told to stop" if stopping else "nothing was being carried out"
        return Told({"cancelled": len(stopping), "message": said})

    # -- the way there -----------------------------------------------------------------------------------------

    def _service(self, name: str, request: Any, asked: Arguments, caller: Caller) -> Any:
        """The reply. Raises NoReply, and Refused where it is no success."""
        service, timeout_s = f"{self._node}/{name}", asked.get("timeout_s")
        self._find(lambda: self._client.is_offered(service), caller)
        request.timeout = float(timeout_s or 0.0)
        reply = self._client.call(service, request, (timeout_s or LONGEST_S) + SLACK_S, caller.gone)
        if not reply.success:
            raise Refused(_sentence(reply.message))
        return reply

    def _goal(self, name: str, goal: Any, asked: Arguments, caller: Caller, on_feedback: Callable[[Any], None]) -> Any:
        action, timeout_s = f"{self._node}/{name}", asked.get("timeout_s")
        self._find(lambda: self._client.acts(action), caller)
        goal.timeout = float(timeout_s or 0.0)
        longest_s = (timeout_s or (LONGEST_MOTION_S if getattr(goal, "execute", False) else LONGEST_S)) + SLACK_S
        return self._client.ask_for(action, goal, longest_s, on_feedback, caller.gone)

    def _find(self, there: Callable[[], bool], caller: Caller) -> None:
        if not self._client.find(there, caller.gone):
            raise NoReply(
                f"nobody answers as {self._full_name} in ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}: is the node running "
                "and active, and are domain, namespace and name those of the node? See `ros2 lifecycle get` and docs/tools.md"
            )

    def _look(
        self,
        asked: Arguments,
        camera: str,
        look: Callable[[], Any],
        header_of: Callable[[Any], Any],
        again: bool = True,
    ) -> tuple[Any, Callable[..., Told]]:
        """What look() says, and what puts the picture it is about to the data.

        again: look once more where that picture was taken before we had any.
        """
        why = "none was asked for"
        if wanted := asked.get("picture", True):
            try:
                self._pictures.watch(camera)
            except NoPicture as error:
                wanted, why = False, f"none: {error}"
        said = look()
        if wanted and not self._pictures.comes(camera, stamp_ns(header_of(said))) and again:
            said = look()
            self._pictures.comes(camera, stamp_ns(header_of(said)))

        def show(data: Mapping[str, Any], marks: Iterable[Marked]) -> Told:
            try:
                jpeg, shown = self._pictures.jpeg(camera, stamp_ns(header_of(said)), marks) if wanted else (None, why)
            except NoPicture as error:
                jpeg, shown = None, f"none: {error}"
            return Told({**data, "picture": shown}, () if jpeg is None else (jpeg,))

        return said, show

    def _on_alarms(self, cdr: bytes) -> None:
        self._alarms_now = decoded(cdr, EventArray)

    def _on_plan(self, cdr: bytes) -> None:
        self._plan_now = decoded(cdr, Plan)


def _marks(seen: Mapping[str, Any]) -> list[Marked]:
    return [Marked(o["label"], o["box_xyxy_px"]) for o in seen["objects"] if o["box_xyxy_px"]]


def _sentence(message: str) -> str:
    """The node's message without the name of its error's class."""
    return re.sub(r"^[A-Z][A-Za-z]+: ", "", message) or "the node gave no reason"
