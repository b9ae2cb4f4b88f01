"""Does the arm do what it is told? Instructions in a simulated world, with contact, carried out and judged by the simulator.

Scenes of the wider embedded world, seeds and wordings that training never sees, English and Chinese in turn, every relation in turn;
a Panda beside the table, a fixed RGB-D camera with a stereo camera's depth noise, time as the simulator counts it. Each instruction is
carried out twice from the same start: with the embedded model, and with the true boxes in the place of its answers, so that one sees
what is the model's and what geometry's. Truth is the simulator's state alone (pick_orders.py).

picked: the thing was taken: in the jaws, 5 cm from where it stood. placed: of instructions that say where to, those after which it was there. grounded: the words were read
right and the boxes of the picture that was planned in are those of the things meant; picked_grounded, placed_grounded: of those. false_success,
false_failure: shares of all instructions whose end was reported as done where truth says no, or as failed where truth says yes.
feasible: instructions that were carried out with either eyes, or for which a search among grasps on the true mesh finds one with which
the arm could (pick_orders.feasible); placed_feasible: placed_grounded of those, oracle_feasible: oracle_placed of those. passed_over:
orders in the scenes looked through that nobody was given, because the arm could not do them. plan_ok: the words became the right steps. seconds_per_step: simulated, of steps that moved the arm. The last line is JSON.

    make bench BENCH=pick [ARGS="--orders 60" or "--full" or "--list --pictures DIR"]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pick_orders
from pick_orders import RELATIONS, Asked

from qwen3vl_ros.asking.finding import Shot
from qwen3vl_ros.config import Config
from qwen3vl_ros.control import Control
from qwen3vl_ros.instructions.perform import Code, Performer, looked_again
from qwen3vl_ros.instructions.planner import Planner
from qwen3vl_ros.instructions.plans import Done, Plan
from qwen3vl_ros.instructions.reach import within_reach
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions.aliases import in_chinese, same_thing
from qwen3vl_ros.rehearsal import Rehearsal
from qwen3vl_ros.sim.arm import REST, Arm, furnish
from qwen3vl_ros.sim.camera import SimCamera, SimView
from qwen3vl_ros.sim.physics import PhysicalWorld
from qwen3vl_ros.sim.scenes import sample_scene
from qwen3vl_ros.sim.specs import SceneSpec
from qwen3vl_ros.sim.workcell import Workcell
from qwen3vl_ros.threads import settle
from qwen3vl_ros.types import Generation, PerceptionError

REPORTED = 50_000_000  # seed of the first scene; failures below it were looked at and mended
_SCENES_EACH = 400  # seeds that an instruction may look through for a scene in which it can be done
EYES = ("embedded", "oracle")


@dataclass
class Try:
    """One instruction, seen by one pair of eyes. fault: where it ended otherwise than told, by truth or by report."""

    order: int
    seed: int
    eyes: str
    asked: Asked
    plan_ok: bool = False
    grounded: bool = False
    picked: bool = False
    done: bool = False
    code: str = ""
    message: str = ""
    fault: str = ""
    off_m: float = math.nan  # of the thing at rest, from where the plan saw it there
    feasible: bool = True  # by a search on the true mesh, where no eyes led to it
    moved: list[int] = field(default_factory=list)
    steps: int = 0
    sim_s: float = 0.0

    @property
    def told_done(self) -> bool:
        return self.code == Code.OK.name


class TrueBoxes(Perception):
    """A Perception whose model knows the truth of the picture before it: `view`."""

    view: SimView

    def generate(self, frame, question, control=None, on_text=None, camera="", view=None) -> Generation:
        """The boxes of what the question's phrases name, as a model would write them."""
        x0, y0, x1, y1 = view.region_xyxy_px if view and view.region_xyxy_px else (0, 0, *frame.size_px)
        said = []
        for t in (t for t in self.view.truths if t.visibility > 0.1):
            phrase, b = next((p for p in question.targets if _called(p, t.label)), ""), t.box_xyxy_px
            if phrase and x0 <= b[0] and y0 <= b[1] and b[2] <= x1 and b[3] <= y1:
                box = (np.array(b) - (x0, y0, x0, y0)) * 1000 / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
                said.append({"bbox_2d": [round(float(v)) for v in box], "label": phrase})
        return Generation(json.dumps(said, ensure_ascii=False), (), None, (), "stop")


class Robot(Rehearsal):
    """A rehearsal that tells the oracle what it sees, and notes by the simulator's state what was lifted."""

    def __init__(self, cell: Workcell, perception: Perception):
        super().__init__(cell)
        self._perception, self.moves, self.move_s = perception, 0, 0.0
        self.held, self.lifted = set(), set()  # after each pick, by contact; and 5 cm from where it was
        self._goal: np.ndarray | None = None
        self.first: Shot | None = None

    def see(self) -> Shot:
        shot = super().see()
        if isinstance(self._perception, TrueBoxes):
            self._perception.view = self.seen
        return shot

    def planned(self, planner: Planner, order: str) -> Plan:
        """The plan of an order in a picture of now, `first`."""
        self.first = self.see()
        return planner.plan(self.first, order)

    def pick(self, step, grasp, control) -> Done:
        before = places(self.cell.world)
        done = super().pick(step, grasp, control)
        went = (
            np.linalg.norm(places(self.cell.world) - before, axis=1) > 0.05
        )  # from a high board it goes down to where it is held
        now = {k for k in range(len(went)) if self.cell.arm.holds(k)}
        self.held |= now
        self.lifted |= now & {*np.flatnonzero(went).tolist()}
        return done

    def place(self, step, place, control) -> Done:
        self._goal = place.frame_T_box[:3, 3]
        return super().place(step, place, control)

    def off_m(self, target: int) -> float:
        """How far a thing is from where it was last to be put."""
        return (
            math.nan if self._goal is None else float(np.linalg.norm(self.cell.world.pose(target)[:3, 3] - self._goal))
        )

    def _move(self, control, motion) -> Done:
        self.moves, started = self.moves + 1, self.cell.time_s
        try:
            return super()._move(control, motion)
        finally:
            self.move_s += self.cell.time_s - started


def places(world: PhysicalWorld) -> np.ndarray:
    """Where the middles of all things are, Nx3."""
    return np.array([world.pose(k)[:3, 3] for k in range(len(world.spec().objects))])


class Bench:
    """What one process needs: a camera, the model, planners."""

    def __init__(self, pictures: str = ""):
        settle()
        self.camera, self.pictures = SimCamera(quality="fast"), pictures
        engine = load_tested_engine(Config())
        self.eyes = {"embedded": Perception(engine, Config()), "oracle": TrueBoxes(engine, Config())}

    def order(self, number: int, first: int, eyes=EYES) -> list[Try]:
        """The instruction of that number: its scene is the first of its seeds in which it can be done."""
        relation, language = RELATIONS[number % len(RELATIONS)], ("en", "zh")[(number + number // len(RELATIONS)) % 2]
        passed = 0
        for seed in range(first + number * _SCENES_EACH, first + (number + 1) * _SCENES_EACH):
            spec, rng = sample_scene(seed, wide=True), np.random.default_rng(seed)
            if _hopeless(relation, spec):
                continue
            base = pick_orders.stand(spec, rng)
            view = self.camera.render(spec, rgb=False)
            arm = Arm(PhysicalWorld(spec, lambda build, base=base: furnish(build, base)))
            if arm.ways.blocked(REST):
                continue
            asked = pick_orders.invent(relation, language, spec, view, arm, rng, passed)
            if isinstance(asked, int):
                passed = asked
            else:
                tries = [self.carried_out(number, seed, spec, base, view, asked, which) for which in eyes]
                can = any(t.done for t in tries) or pick_orders.feasible(asked, spec, view, arm, seed)
                return [dataclasses.replace(t, feasible=can) for t in tries]
        return []

    def carried_out(self, number, seed, spec, base, view, asked: Asked, eyes: str) -> Try:
        perception = self.eyes[eyes]
        perception.forget()
        one, planner, first = Try(number, seed, eyes, asked), Planner(perception), None
        with Workcell(spec, base, noise=seed) as cell:
            robot = Robot(cell, perception)
            start = [cell.world.pose(k) for k in range(len(spec.objects))]
            try:
                plan = looked_again(
                    lambda: within_reach(robot.planned(planner, asked.text), robot, Control()), Control()
                )
                first = robot.seen.rgb
                one.plan_ok = _reads(plan, asked)
                one.grounded = one.plan_ok and _found(planner, robot.first, asked, robot.seen)
                outcome = Performer(planner, robot, robot.see).perform(plan, Control())
                one.code, one.message = outcome.code.name, outcome.message
            except PerceptionError as error:
                one.code, one.message = type(error).__name__, str(error)
            held = cell.arm.holds(asked.target)
            cell.world.settle()
            one.picked, one.steps, one.sim_s = asked.target in robot.lifted, robot.moves, robot.move_s
            if asked.relation == "pick":
                one.fault = "" if held else "it is not in the jaws"
            else:
                one.fault = pick_orders.placed(asked, cell.world, spec, view, start[asked.target])
            # Out from under a board it was drawn, not up: whatever the jaws held and is elsewhere now was taken.
            away_m = np.linalg.norm(cell.world.pose(asked.target)[:3, 3] - start[asked.target][:3, 3])
            one.picked |= asked.target in robot.held and away_m > 0.03
            one.done = one.picked and not one.fault
            one.off_m = robot.off_m(asked.target)
            one.moved = pick_orders.fallen(cell.world, start, asked.target)
            if self.pictures and first is not None and not (one.done and one.told_done):
                self._draw(one, first, cell)
        return one

    def _draw(self, one: Try, first: np.ndarray, cell: Workcell) -> None:
        import cv2

        both = np.concatenate([first, cell.look()[0].rgb, cell.overview()], 1)[..., ::-1]
        name = f"{one.order:03d}_{one.eyes}_{one.asked.relation.replace(' ', '_')}_{one.code}.jpg"
        cv2.imwrite(str(Path(self.pictures) / name), both)


def _hopeless(relation: str, spec: SceneSpec) -> bool:
    """Whether a scene lacks what an order of that kind speaks of; costs no picture."""
    if relation == "level":
        return spec.shelf is None
    if relation == "in":
        return not any(o.kind in ("bowl", "mug") for o in spec.objects)
    return relation == "on" and not any(o.kind in ("tray", "box", "cube") for o in spec.objects)


def _called(phrase: str, label: str) -> bool:
    return same_thing(phrase, label) or same_thing(phrase, in_chinese(label)) or phrase.split(" ")[-1] == label


def _reads(plan: Plan, asked: Asked) -> bool:
    told = [s.told for s in plan.steps]
    return len(told) == len(asked.steps) and all(
        (a.action, a.relation) == (b.action, b.relation)
        and same_thing(a.object, b.object)
        and (same_thing(a.reference, b.reference) or a.reference == b.reference)
        for a, b in zip(told, asked.steps)
    )


def _found(planner: Planner, shot: Shot, asked: Asked, view: SimView) -> bool:
    """Whether each thing that the order names is boxed once, where it is."""
    things = [asked.target, *([asked.reference] if asked.reference >= 0 else [])]
    names = [asked.steps[0].object, *([asked.steps[1].reference] if asked.reference >= 0 else [])]
    boxes = planner.find(shot, names).detections_2d
    truths = {t.index: t.box_xyxy_px for t in view.truths}
    return len(boxes) == len(things) and all(any(_iou(b.box_xyxy_px, truths[k]) > 0.5 for b in boxes) for k in things)


def _iou(a, b) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


# -- the run ---------------------------------------------------------------------------------------------------------------

_bench: Bench


def _begin(pictures: str) -> None:
    global _bench
    _bench = Bench(pictures)


def _one(job: tuple[int, int, tuple[str, ...]]) -> list[Try]:
    return _bench.order(*job)


def run(options: argparse.Namespace) -> list[Try]:
    if options.pictures:
        Path(options.pictures).mkdir(parents=True, exist_ok=True)
    numbers = options.only or range(options.orders)
    jobs = [(k, options.first, tuple(options.eyes)) for k in numbers]
    tries: list[Try] = []
    with multiprocessing.get_context("spawn").Pool(options.workers, _begin, (options.pictures,)) as pool:
        for made in pool.imap_unordered(_one, jobs):
            tries += made
            for t in made:
                if options.list and not (t.done and t.told_done):
                    print(
                        f"{t.order:4d} {t.eyes} {t.asked.text!r} {t.code}: {t.message}; truth: {t.fault or 'done'}{'' if t.feasible else ', not feasible'}; {100 * t.off_m:.1f} cm off",
                        flush=True,
                    )
    return sorted(tries, key=lambda t: (t.eyes, t.order))


def share(values) -> float | None:
    values = list(values)
    return round(sum(values) / len(values), 4) if values else None


def figures(tries: list[Try]) -> dict[str, float | int | None]:
    own, oracle = ([t for t in tries if t.eyes == eyes] for eyes in EYES)
    steps = sum(t.steps for t in own)

    def put(some: list[Try]) -> list[Try]:
        return [t for t in some if t.asked.relation != "pick"]

    good = [t for t in own if t.grounded]
    return {
        "n": len(own),
        "picked": share(t.picked for t in own),
        "placed": share(t.done for t in put(own)),
        "grounded": share(t.grounded for t in own),
        "picked_grounded": share(t.picked for t in good),
        "placed_grounded": share(t.done for t in put(good)),
        "false_success": share(t.told_done and not t.done for t in own),
        "false_failure": share(t.done and not t.told_done for t in own),
        "oracle_picked": share(t.picked for t in oracle),
        "oracle_placed": share(t.done for t in put(oracle)),
        "feasible": share(t.feasible for t in own or oracle),
        "placed_feasible": share(t.done for t in put(good) if t.feasible),
        "oracle_feasible": share(t.done for t in put(oracle) if t.feasible),
        "passed_over": sum(t.asked.passed for t in own),
        "plan_ok": share(t.plan_ok for t in own),
        "seconds_per_step": round(sum(t.sim_s for t in own) / steps, 2) if steps else None,
    }


def report(tries: list[Try]) -> None:
    print(
        "\n| told to put it | orders | grounded | lifted | there | said done, is not | said failed, is there | with true boxes: lifted | there |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for relation in dict.fromkeys(RELATIONS):
        own, oracle = ([t for t in tries if t.eyes == eyes and t.asked.relation == relation] for eyes in EYES)
        wrong = sum(t.told_done and not t.done for t in own), sum(t.done and not t.told_done for t in own)
        cells = [sum(getattr(t, what) for t in some) for some in (own, oracle) for what in ("picked", "done")]
        row = (relation, len(own), sum(t.grounded for t in own), *cells[:2], *wrong, *cells[2:])
        print("| " + " | ".join(map(str, row)) + " |")
    for eyes in EYES:
        some = [t for t in tries if t.eyes == eyes]
        bad = [t for t in some if not t.done]
        knocked = sum(bool(t.moved) for t in some)
        wrong = sum(t.told_done and not t.done for t in some)
        print(
            f"\n{eyes}: {len(bad)} of {len(some)} not done, {wrong} of them reported done; in {knocked} something else moved over 3 cm"
        )
        for why, count in Counter(f"{t.code}: {_kind(t.message)}" for t in bad).most_common():
            print(f"{count:4d} {why}")
    print(json.dumps(figures(tries)))


def _kind(text: str) -> str:
    return "".join(c for c in text.split(";")[0] if not c.isdigit())[:110]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=60)
    parser.add_argument("--full", action="store_true", help="300 instructions")
    parser.add_argument("--first", type=int, default=REPORTED, help="seed of the first scene")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of single instructions")
    parser.add_argument("--eyes", nargs="+", choices=EYES, default=EYES)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pictures", default="", help="folder for pictures of what failed, before and after")
    parser.add_argument("--list", action="store_true", help="print every failure")
    options = parser.parse_args()
    if options.full:
        options.orders = 300
    started = time.perf_counter()
    tries = run(options)
    print(f"{math.ceil(time.perf_counter() - started)} s")
    report(tries)


if __name__ == "__main__":
    main()
