"""The demo's second half: orders in words, and an arm that carries them out until a newer picture shows them done.

The simulated robot and a perception node of their own, in the namespace `cell`, over the same action as anybody's client; judged
by the simulator's truth. Knows ROS only through the client.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np

from qwen3vl_ros.demo.film import Film
from qwen3vl_ros.demo.processes import Children, node_command
from qwen3vl_ros.demo.reading import detection_3d_of
from qwen3vl_ros.sim.workcell import bench_scene
from qwen3vl_ros.types import PerceptionError

NAMESPACE, VIDEO = "cell", "arm.mp4"
LOAD_PATIENCE_S, ORDER_PATIENCE_S = 300.0, 600.0  # for machines that are busy with other things
_ROBOT = {"pace": 8.0, "rate": 3.0, "width": 480, "height": 360}
_ON_M, _INSIDE_M = 0.015, 0.04

Places = Mapping[str, np.ndarray]  # of the middles of things, 3 in the world, by their names


def on_second_level(at: Places) -> bool:
    """Whether the red box rests on the upper board."""
    shelf, box = bench_scene().shelf, next(o for o in bench_scene().objects if o.label == "red box")
    aside = np.abs(at["red box"][:2] - shelf.position_m)
    high = abs(at["red box"][2] - shelf.board_top_m(2) - box.size_m[2] / 2)
    return bool(high < _ON_M and aside.max() < max(shelf.size_m) / 2)


def in_bowl(at: Places) -> bool:
    """Whether the green cube lies in the bowl."""
    offset = at["green cube"] - at["blue bowl"]
    return bool(np.linalg.norm(offset[:2]) < _INSIDE_M and 0 < at["green cube"][2] < 0.06)


ORDERS: tuple[tuple[str, Callable[[Places], bool]], ...] = (
    ("拿起画面中红色的盒子,放到架子第二层", on_second_level),
    ("Pick up the green cube and put it into the blue bowl", in_bowl),
)


def carry_out_orders(out: Path, model: str, device: str, say: Callable[[str], None]) -> dict[str, Any]:
    """What became of ORDERS: their counts, and what was said of each. Raises PerceptionError where a process dies or nothing comes.

    out: gets arm.mp4 and cell/ with the logs. Counted as executed: the arm carried out all its steps; as verified: reported done because
    a newer picture showed it; as false_success: reported done where the simulator knows better.
    """
    from sensor_msgs.msg import CameraInfo, Image
    from vision_msgs.msg import Detection3DArray

    from qwen3vl_ros.action import FollowInstruction
    from qwen3vl_ros.msg import Plan
    from qwen3vl_ros.node.client import IMAGES, LATCHED, Client, decoded

    folder = out / "cell"
    folder.mkdir(parents=True, exist_ok=True)
    film, truth = Film(bench_scene().camera.world_T_camera()), {}

    def learn(cdr: bytes) -> None:
        for thing in map(detection_3d_of, decoded(cdr, Detection3DArray).detections):
            truth[thing.label] = thing.frame_T_box[:3, 3]

    orders: list[dict[str, Any]] = []
    began = time.monotonic()
    with Children(folder) as children:
        client = Client("demo_arm", NAMESPACE, children.check)
        try:
            client.subscribe("image_raw", Image, lambda m: film.add_live(decoded(m, Image)), IMAGES)
            client.subscribe("overview/image_raw", Image, lambda m: film.add_overview(decoded(m, Image)), IMAGES)
            client.subscribe("camera_info", CameraInfo, lambda m: film.calibrate(decoded(m, CameraInfo)), IMAGES)
            client.subscribe("perception/plan", Plan, lambda m: film.add_plan(decoded(m, Plan)), LATCHED)
            client.subscribe("sim_robot/ground_truth_3d", Detection3DArray, learn)
            client.use_action("perception/follow_instruction", FollowInstruction)
            children.start("robot", node_command("qwen3vl_ros.node.sim_robot", NAMESPACE, **_ROBOT))
            node = {"model": model, "device": device, "enabled": False, "max_age": 30.0, "use_sim_time": True}
            node |= {"target_frame": "world", "robot_frame": "arm_link0", "follow.step_timeout": ORDER_PATIENCE_S}
            children.start("node", node_command("qwen3vl_ros.node.perception.main", NAMESPACE, **node))
            if not client.spin(LOAD_PATIENCE_S, lambda: bool(truth) and film.seen):
                raise PerceptionError(f"the simulated robot showed nothing; see {children.log_path('robot')}")
            for order, done in ORDERS:
                orders.append(_carried_out(client, FollowInstruction, order, film, say))
                stamps = film.pictures
                client.spin(10.0, lambda now=stamps: film.pictures > now + 1)  # the truth of now
                orders[-1]["true"] = done(truth)
        finally:
            client.close()
    try:
        seconds = film.write(out / VIDEO)
    except OSError as error:
        seconds = 0.0
        say(f"  {VIDEO} could not be written: {error.strerror or error}")
    verified = [o for o in orders if o["code"] == "OK"]
    say(
        f"  by the simulator's truth {sum(o['true'] for o in orders)} of {len(orders)} are as told; {seconds:.0f} s of its time in {VIDEO}"
    )
    return {
        "instructions": len(orders),
        "executed": sum(o["executed"] for o in orders),
        "verified": len(verified),
        "false_success": sum(not o["true"] for o in verified),
        "orders": orders,
        "took_s": round(time.monotonic() - began, 1),
    }


def _carried_out(client, kind, order: str, film: Film, say: Callable[[str], None]) -> dict[str, Any]:
    """One order: planned, shown, carried out as it was planned."""
    action, started = "perception/follow_instruction", time.monotonic()
    film.caption(order)
    for _ in range(3):
        told = client.ask_for(action, kind.Goal(instruction=order), LOAD_PATIENCE_S)
        if told.code != kind.Result.STALE:  # on a busy machine pictures may come too late
            break
    if told.code == kind.Result.OK:
        say(f"  {order}  ->  {'; '.join(map(_step_line, told.plan.steps))}")
        goal = kind.Goal(plan_id=told.plan.plan_id, revision=told.plan.revision, execute=True)
        told = client.ask_for(action, goal, ORDER_PATIENCE_S, lambda f: film.state(f.step, f.state))
    names = {
        getattr(kind.Result, n): n for n in dir(kind.Result) if n.isupper() and isinstance(getattr(kind.Result, n), int)
    }
    code, message = names.get(told.code, str(told.code)), told.message or told.plan.question
    say(f"    {code}: {message}; {time.monotonic() - started:.0f} s")
    return {
        "instruction": order,
        "code": code,
        "message": message,
        "steps": [_step_line(s) for s in told.plan.steps],
        "executed": code in ("OK", "POSTCONDITION") and told.execution == 0,
    }


def _step_line(step: Any) -> str:
    where = f" {step.relation} {step.reference}".rstrip() if step.relation else ""
    return f"{step.action} {step.object}{where}"
