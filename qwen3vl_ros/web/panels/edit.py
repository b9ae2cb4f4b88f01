"""A plan's steps in a form, to be changed before somebody approves them. What comes of it is the node's: it grounds the steps anew, and
makes another revision of the plan, which is to be approved like any.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

import viser

from qwen3vl_ros.action import FollowInstruction
from qwen3vl_ros.msg import Plan, PlanStep
from qwen3vl_ros.questions.plan import ACTIONS, PLACES

LEFT_OUT, NOWHERE = "leave out", "-"
ORDER = 20.0  # below the plan and its buttons


class Editor:
    """One browser's form with the steps of one revision of a plan, in the container that is entered.

    send(goal): has the node look at them; blocks. tell(words): says to this browser what the node need not be asked.
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        plan: Plan,
        send: Callable[[FollowInstruction.Goal], None],
        tell: Callable[[str], None],
    ):
        self._gui, self._plan, self._send, self._tell = gui, plan, send, tell
        self._folder = gui.add_folder("Steps", order=ORDER)
        self._rows: list[tuple[Any, ...]] = []
        with self._folder:
            gui.add_button("Add a step", order=ORDER + 1).on_click(lambda _: self._add(PlanStep(action=ACTIONS[0])))
            gui.add_button("Check the steps", color="blue", order=ORDER + 2).on_click(lambda _: self._check())
            gui.add_button("Leave them as they were", order=ORDER + 3).on_click(lambda _: self.close())
        for step in plan.steps:
            self._add(step)

    def close(self) -> None:
        """Once or more."""
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _add(self, step: PlanStep) -> None:
        """The fields of a step, as PlanStep has them; each is named by the step's number."""
        number = len(self._rows) + 1
        where = step.relation or NOWHERE
        with self._folder:
            at = lambda part: ORDER + (number + part / 10) / 1000
            self._rows.append((
                self._gui.add_dropdown(f"{number}. do", _with(step.action, (*ACTIONS, LEFT_OUT)), step.action, order=at(0)),
                self._gui.add_text(f"{number}. thing", step.object, order=at(1)),
                self._gui.add_dropdown(f"{number}. where", _with(where, (NOWHERE, *PLACES)), where, order=at(2)),
                self._gui.add_text(f"{number}. of", step.reference, order=at(3)),
            ))  # fmt: skip

    def _check(self) -> None:
        told = [[field.value for field in row] for row in self._rows]
        steps = [
            PlanStep(action=action, object=thing, relation="" if where == NOWHERE else where, reference=of)
            for action, thing, where, of in told
            if action != LEFT_OUT
        ]
        if not steps:  # which the node would read as: leave them as they are
            return self._tell("no step is left; a plan has one or more")
        plan = self._plan
        goal = FollowInstruction.Goal(plan_id=plan.plan_id, revision=plan.revision, camera=plan.camera, steps=steps)
        self._send(goal)


def _with(said: str, usual: Sequence[str]) -> tuple[str, ...]:
    """The choices, and what a plan has beside them: nothing that it says is changed unasked."""
    return tuple(usual) if said in usual else (said, *usual)
