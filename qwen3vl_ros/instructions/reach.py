"""Of all the ways in which a plan could be carried out, those that the arm can: asked of whoever moves it, before anything is promised.

A grasp and a place are asked for as a pair, since the hand that takes a thing is the hand that puts it down. Knows nothing of how an
arm is moved, nor of ROS.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.plans import Plan, PlanStep, out_of_reach
from qwen3vl_ros.types import GraspTarget, PlaceTarget

ENOUGH = 4  # pairs that can be carried out: the first, and others for where it fails
KEPT = 12  # pairs of a plan


class Reaching(Protocol):
    def reach(
        self, step: PlanStep, grasps: tuple[GraspTarget, ...], places: tuple[PlaceTarget, ...], control: Control
    ) -> tuple[str, ...] | None:
        """Why not, of the places with their grasps, without places of the grasps: "" for one that can be reached. Tried in their order,
        until ENOUGH can be; None where nobody can tell.
        """


def within_reach(plan: Plan, arm: Reaching, control: Control) -> Plan:
    """The plan with what its first motion may use: what can be reached, then what was not tried; a question where all was refused.

    Only the first motion: what comes later will find another scene.
    """
    open_steps = [s for s in plan.steps if s.status != "done" and s.told.action != "look" and not s.already]
    if plan.question or not open_steps or open_steps[0].told.action != "pick":
        return plan
    pick, rest = open_steps[0], open_steps[1:]
    goes = next((s for s in rest if s.told.action == "place"), None)
    if goes is not None and (goes.told.object != pick.told.object or not goes.places):
        goes = None
    ways = pick.grasps if goes is None else goes.places
    refused = arm.reach(pick, pick.grasps, () if goes is None else goes.places, control)
    if refused is None:
        order = list(range(len(ways)))
    else:
        order = [k for k, why in enumerate(refused) if not why] + list(range(len(refused), len(ways)))
    if not order:
        return out_of_reach(plan, pick.told.object, refused[0])
    if goes is None:
        changed = replace(pick, grasps=tuple(ways[k] for k in order))
    else:
        changed = replace(goes, places=tuple(ways[k] for k in order[:KEPT]))
    return replace(plan, steps=tuple(changed if s is (goes or pick) else s for s in plan.steps))
