"""Instructions in words: the plan that they became is shown, somebody approves it, and the arm does it until it is done or stopped.

The node decides who may: it carries out one plan at a time and only as it was reviewed, so of two who approve the same plan one is told.
"""

from __future__ import annotations

import threading
from typing import Any

import viser

from qwen3vl_ros.action import FollowInstruction
from qwen3vl_ros.msg import Plan, PlanStep
from qwen3vl_ros.types import PerceptionError
from qwen3vl_ros.web import html
from qwen3vl_ros.web.panels.ask import facts_html
from qwen3vl_ros.web.panels.base import Panel
from qwen3vl_ros.web.panels.camera import CameraPanel
from qwen3vl_ros.web.panels.edit import Editor
from qwen3vl_ros.web.robot import Robot

_NAMES = ("OK", "NOT_FOUND", "AMBIGUOUS", "STALE", "TF", "PRECONDITION", "EXECUTION", "POSTCONDITION", "TIMEOUT",
          "CANCELLED", "REJECTED", "BUSY", "ERROR")  # fmt: skip
_CODES = {getattr(FollowInstruction.Result, name): name for name in _NAMES}
_STATUS = {
    PlanStep.OPEN: ("open", "#888"),
    PlanStep.RUNNING: ("running", "#1e88e5"),
    PlanStep.DONE: ("done", "#43a047"),
    PlanStep.FAILED: ("failed", "#e53935"),
}
_GOOD, _BAD = "#43a047", "#e53935"


class DoPanel(Panel):
    """plan: the newest that the node told of, whoever asked for it; None before."""

    period_s = 0.1

    def __init__(self, server: viser.ViserServer, robot: Robot, picture: CameraPanel):
        self._server, self._robot, self._picture = server, robot, picture
        self.plan: Plan | None = None
        self._progress = ""
        self._changed = threading.Event()
        self._buttons: list[viser.GuiButtonHandle] = []
        self._editing, self._editors = threading.Lock(), dict[int, Editor]()  # by browser
        stop = server.gui.add_button("Stop the arm", color="red", icon=viser.Icon.HAND_STOP, order=0)
        stop.on_click(self._on_stop)
        self._folder = server.gui.add_folder("Do")
        with self._folder:
            self._said = server.gui.add_html(html.block("plan", html.note("no plan")), order=3)

    def join(self, client: viser.ClientHandle) -> None:
        with self._folder, client.gui.add_form(None, order=1) as form:
            line = client.gui.add_text(
                "instruction", "", hint="put the red cube into the bowl - 把红色的方块放进碗里", order=1
            )
            client.gui.add_button("Plan it", order=2).on_click(lambda _: self._make_plan(client, line.value))
        form.on_submit(lambda _: self._make_plan(client, line.value))

    def update(self) -> None:
        plan = self._robot.plan.newest()
        if plan is not None:
            shown, self.plan = self.plan, plan
            if shown is None or _revision(shown) != _revision(plan):
                self._offer(plan)
        if plan is not None or self._changed.is_set():
            self._changed.clear()
            self._said.content = html.block("plan", _shown(self.plan), self._progress)

    def _offer(self, plan: Plan) -> None:
        """New buttons for each revision: a click is an approval of what stood there when it was made, and of nothing newer."""
        while self._buttons:
            self._buttons.pop().remove()
        with self._editing:  # what somebody still changes is of a revision that is no more
            for browser in self._editors.keys() & self._server.get_clients().keys():
                self._editors[browser].close()
            self._editors.clear()
        with self._folder:
            if plan.executable:
                approve = self._server.gui.add_button("Approve and do it", color="green", order=4)
                goal = FollowInstruction.Goal(
                    plan_id=plan.plan_id, revision=plan.revision, camera=plan.camera, execute=True
                )
                approve.on_click(lambda click: self._follow(click.client, goal))
                self._buttons.append(approve)
            if plan.steps and all(step.status == PlanStep.OPEN for step in plan.steps):
                change = self._server.gui.add_button("Change the steps", order=5)
                change.on_click(lambda click: self._edit(click.client, plan))
                self._buttons.append(change)

    def _edit(self, client: viser.ClientHandle, plan: Plan) -> None:
        with self._editing:
            if (open_one := self._editors.pop(client.client_id, None)) is not None:
                open_one.close()
            if _revision(plan) == _revision(self.plan):
                with self._folder:
                    self._editors[client.client_id] = Editor(
                        client.gui,
                        plan,
                        lambda goal: self._follow(client, goal),
                        lambda words: self._tell(client, "not checked", words),
                    )

    def _make_plan(self, client: viser.ClientHandle, words: str) -> None:
        if words.strip():
            self._follow(client, FollowInstruction.Goal(instruction=words, camera=self._picture.camera.name))

    def _follow(self, client: viser.ClientHandle, goal: FollowInstruction.Goal) -> None:
        """Blocks until the node has planned or done it."""

        def on_part(part: Any) -> None:
            self._say(html.text(f"step {part.step + 1}: {part.state} {part.message}"))

        try:
            result = self._robot.follow(goal, on_part)
        except PerceptionError as error:
            return self._tell(client, "not done", str(error))
        name = _CODES.get(result.code, str(result.code))
        if result.code in (FollowInstruction.Result.REJECTED, FollowInstruction.Result.BUSY):
            return self._tell(
                client, name, result.message
            )  # somebody else's plan goes on, and so does what is said of it
        good = result.code == FollowInstruction.Result.OK
        done = ("done" if goal.execute else "planned") if good else name
        self._say(f'<b style="color:{_GOOD if good else _BAD}">{html.text(done)}</b> {html.text(result.message)}')

    def _tell(self, client: viser.ClientHandle, title: str, words: str) -> None:
        client.add_notification(title, words, color="red")

    async def _on_stop(self, click: Any) -> None:
        """On a thread of its own: viser's may all be busy waiting for answers."""
        threading.Thread(target=self._stop, args=(click.client,), daemon=True).start()

    def _stop(self, client: viser.ClientHandle) -> None:
        try:
            stopped = self._robot.stop()
        except PerceptionError as error:
            return self._tell(client, "nobody answers to stop", str(error))
        client.add_notification(
            "stop", "the arm is told to stop" if stopped else "nothing was being done", auto_close_seconds=5
        )

    def _say(self, words: str) -> None:
        self._progress = f'<div class="progress">{words}</div>'
        self._changed.set()


def _revision(plan: Plan) -> tuple[int, int, bool]:
    return plan.plan_id, plan.revision, plan.executable


def _shown(plan: Plan | None) -> str:
    if plan is None:
        return html.note("no plan")
    rows = []
    for number, step in enumerate(plan.steps, 1):
        status, colour = _STATUS.get(step.status, ("?", "#888"))
        words = f"{step.action} {step.object} {step.relation} {step.reference}".strip()
        more = facts_html([*step.before, *step.after]) if step.status == PlanStep.FAILED else ""
        rows.append(
            (
                str(number),
                html.text(words) + html.note(step.message) + more,
                f'<span style="color:{colour}">{status}</span>',
            )
        )
    head = f"<b>{html.text(plan.instruction)}</b> {html.text(f'plan {plan.plan_id}, revision {plan.revision}')}"
    return head + html.table(rows) + (html.note(plan.question, "#ef6c00") if plan.question else "")
