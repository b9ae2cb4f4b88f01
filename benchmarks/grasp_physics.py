"""Do the grasps hold? Executed by a free-flying parallel hand in a physical world, on things that nobody here modelled.

Household things of the installed asset packages (sim/household.py) and the built-in kinds, dropped and settled by physics, one
alone or three to six together; 640x480 depth from 0.6 to 1.1 m, with a stereo camera's noise (sim/depth_noise.py) or exact;
ground-truth 2D boxes. Each target is tried from the same settled world (sim/hand.py: pads of friction 0.6 to 1.0, 40 N a
finger, objects of 0.06 to 0.6 kg). It counts where the asked object is held 1 s after lift and shake and nothing else
moved 3 cm. ceiling: antipodal grasps in six degrees of freedom sampled on the true mesh and executed, the best of a few.

single, clutter, builtin: held, of all objects. best_first: of the clutter scenes, that in which the target of the best quality
holds. given_feasible: held, of what was called feasible. wrong_object: another object was lifted, of all tries. quality_auroc,
quality_ece: how well quality tells what will hold. The last line is JSON. Failures are drawn into --failures. Seeds below
100000 are for tuning; the reported ones begin there.

    make bench BENCH=grasp_physics [ARGS="--single 150 --clutter 70 --depth noisy --hand panda"]

Other conditions: --hand (a preset's name, 2f85, panda, wsg50, or a parameter file), --noise 2 (times the noise), --elevation 75 88
(the camera's, degrees).
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # one core, and before NumPy loads
    os.environ[variable] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from pathlib import Path  # noqa: E402

import cv2  # noqa: E402
import mujoco  # noqa: E402
import numpy as np  # noqa: E402

from qwen3vl_ros.config import Config, GripperConfig, LiftConfig  # noqa: E402
from qwen3vl_ros.geometry.cloud import SceneCloud  # noqa: E402
from qwen3vl_ros.geometry.lift import lift_boxes  # noqa: E402
from qwen3vl_ros.grasping.grasps import plan_grasps  # noqa: E402
from qwen3vl_ros.sim.camera import SimCamera, SimView  # noqa: E402
from qwen3vl_ros.sim.depth_noise import noisy_depth  # noqa: E402
from qwen3vl_ros.sim.hand import FreeHand, Outcome, furnish_hand  # noqa: E402
from qwen3vl_ros.sim.household import LARGEST_M, catalogue, whole_mesh  # noqa: E402
from qwen3vl_ros.sim.physics import PhysicalWorld  # noqa: E402
from qwen3vl_ros.sim.scenes import sample_scene  # noqa: E402
from qwen3vl_ros.sim.shapes import build_meshes  # noqa: E402
from qwen3vl_ros.sim.solids import surface_points  # noqa: E402
from qwen3vl_ros.sim.specs import CameraSpec, MovedObject, SceneSpec  # noqa: E402
from qwen3vl_ros.types import Detection2D, Frame, GraspTarget, InvalidInput  # noqa: E402

REPORTED = 100_000
FOVY_DEG = 45.0
SEEN = 0.4  # visibility that an object of a clutter needs to be asked for
MASS_KG = (0.06, 0.60)
FURNITURE = (
    "rack",
    "shelf",
    "bigger",
    "cabinet",
    "tray",
    "basket",
    "drainer",
    "storage_box",
    "dining_set",
    "faucet",
    "caddy",
)


@dataclass
class Try:
    """One object asked for. quality: 0 where refused; seconds: lifting and planning, its share."""

    kind: str
    scene: int
    index: int
    label: str
    quality: float
    feasible: bool
    outcome: Outcome
    ceiling: bool | None
    centre_m: float
    ms: float


# -- worlds --------------------------------------------------------------------------------------------------------------
def household_names() -> list[str]:
    """The distinct things: many of the packages' assets are one mesh in another colour."""
    distinct = {}
    for name, asset in catalogue(LARGEST_M).items():
        if any(word in name for word in FURNITURE):
            continue  # no hand of this size picks them up
        key = tuple(np.round(sorted(asset.size_m), 3)), sum(len(p.mesh.faces) for p in asset.parts)
        distinct.setdefault(key, name)
    return sorted(distinct.values())


def sample_objects(rng: np.random.Generator, names: list[str], count: int) -> tuple[MovedObject, ...]:
    """Things in the air, to be dropped: most upright, some in any attitude; side by side, and over another where it is full."""
    things, placed, above = [], [], 0.0
    for name in rng.permutation(names)[:count]:
        asset = catalogue(LARGEST_M)[name]
        turn = cv2.Rodrigues(np.array((0, 0, rng.uniform(-np.pi, np.pi))))[0]
        if rng.random() < 0.35:
            axis = rng.normal(size=3)
            turn = cv2.Rodrigues(axis / np.linalg.norm(axis) * rng.uniform(0, np.pi))[0] @ turn
        half = np.abs(turn) @ np.array(asset.size_m) / 2
        radius = 0.8 * float(np.hypot(half[0], half[1]))  # near enough to touch now and then
        for _ in range(40):
            xy = rng.uniform(-1, 1, 2) * (0.17 if count > 1 else 0.05)
            clear = all(np.linalg.norm(xy - other) > radius + r for other, r in placed)
            if clear:
                break
        at = (float(xy[0]), float(xy[1]), float((0.0 if clear else above) + half[2] + 0.01))
        above = max(above, at[2] + half[2])
        placed.append((xy, radius))
        rotation = tuple(tuple(map(float, row)) for row in turn)
        things.append(MovedObject(asset.label, "", asset.size_m, at, 0.0, (1.0, 1.0, 1.0), name, None, 0, rotation))
    return tuple(things)


def sample(kind: str, seed: int, names: list[str], elevation_deg: tuple[float, float] = (30, 75)) -> SceneSpec:
    rng = np.random.default_rng((0x6A5, seed, len(kind)))
    if kind == "builtin":
        spec = sample_scene(seed, n_objects=int(rng.integers(1, 4)))
    else:
        spec = replace(
            sample_scene(seed), objects=sample_objects(rng, names, 1 if kind == "single" else int(rng.integers(3, 7)))
        )
    elevation, azimuth, far = np.deg2rad(rng.uniform(*elevation_deg)), rng.uniform(-np.pi, np.pi), rng.uniform(0.6, 1.1)
    flat = far * np.cos(elevation)
    eye = (float(flat * np.cos(azimuth)), float(flat * np.sin(azimuth)), float(far * np.sin(elevation)) + 0.03)
    return replace(spec, camera=CameraSpec(eye, (0.0, 0.0, 0.03), float(np.deg2rad(rng.normal(0, 2)))))


def weigh(world: PhysicalWorld, rng: np.random.Generator, count: int) -> None:
    """A mass of 0.06 to 0.6 kg for each object, by its volume and a density."""
    model = world.model
    for k in range(count):
        body = model.body(f"object{k}").id
        wanted = np.clip(model.body_mass[body] * rng.uniform(0.6, 2.0), *MASS_KG)
        model.body_inertia[body] *= wanted / model.body_mass[body]
        model.body_mass[body] = wanted
    mujoco.mj_setConst(model, mujoco.MjData(model))


# -- the oracle ----------------------------------------------------------------------------------------------------------
def true_surface(spec: SceneSpec, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    thing = spec.objects[index]
    if thing.asset:
        vertices, faces = whole_mesh(catalogue(LARGEST_M)[thing.asset])
    else:
        mesh = build_meshes()[thing.kind]
        vertices, faces = mesh.vertices * thing.size_m, mesh.faces
    points, normals = surface_points(vertices, faces, 900, rng)
    pose = thing.pose()
    return points @ pose[:3, :3].T + pose[:3, 3], normals @ pose[:3, :3].T


def antipodal(
    points, normals, gripper: GripperConfig, rng: np.random.Generator, count: int
) -> list[tuple[np.ndarray, float]]:
    """(world_T_gripper, width) of grasps whose contacts oppose each other on the true surface, the nearest to the middle first."""
    between = points[None] - points[:, None]
    width = np.linalg.norm(between, axis=2) + 1e-9
    cone = np.cos(np.deg2rad(20.0))
    opposed = (-np.einsum("ijk,ik->ij", between, normals) > cone * width) & (
        np.einsum("ijk,jk->ij", between, normals) > cone * width
    )
    first, second = np.nonzero(opposed & (width < gripper.max_width - 2 * gripper.clearance) & (width > 0.002))
    if not len(first):
        return []
    middle = (points[first] + points[second]) / 2
    order = np.argsort(np.linalg.norm(middle - points.mean(0), axis=1) + rng.exponential(0.015, len(first)))[:count]
    found = []
    for k in order:
        closing = between[first[k], second[k]] / width[first[k], second[k]]
        level = np.cross(closing, (0, 0, 1.0))
        if np.linalg.norm(level) < 0.15:
            continue
        level /= np.linalg.norm(level)
        down = np.cross(level, closing)
        down *= -np.sign(down[2])
        for lean in rng.permutation(np.deg2rad((0, 0, -25, 25, -50, 50, -75, 75)))[:4]:
            approach = np.cos(lean) * down + np.sin(lean) * level
            pose = np.eye(4)
            pose[:3, :3] = np.stack((np.cross(closing, approach), closing, approach), 1)
            pose[:3, 3] = middle[k] + approach * rng.choice((0.006, 0.012, 0.02, 0.03))
            found.append((pose, float(width[first[k], second[k]])))
    return found


def ceiling(spec: SceneSpec, index: int, hand: FreeHand, gripper: GripperConfig, seed: int) -> bool:
    """Whether one of a few grasps that the true mesh suggests holds."""
    rng = np.random.default_rng((0x0AC1E, seed, index))
    tried = 0
    for pose, width in antipodal(*true_surface(spec, index, rng), gripper, rng, 60):
        opening = min(gripper.max_width, width + 0.03)
        hand.back()
        if hand.collides(pose, opening):
            continue
        if hand.grasp(pose, width, opening, 0.08, index).held:
            return True
        tried += 1
        if tried == 6:
            break
    return False


# -- what is measured ----------------------------------------------------------------------------------------------------
def targets(view: SimView, depth_m, seen, gripper: GripperConfig):
    """What the pipeline makes of one view: grasp targets and lifted boxes by index, and milliseconds an object."""
    frame = Frame(
        stamp_ns=1,
        frame_id="camera",
        rgb=view.rgb,
        depth_m=depth_m,
        K=view.K,
        target_T_camera=view.world_T_camera,
        target_frame="world",
        up_camera=view.world_T_camera[2, :3],
    )
    started = time.perf_counter()
    cloud = SceneCloud.of(frame, LiftConfig())
    lifted = lift_boxes(cloud, [Detection2D(t.label, t.box_xyxy_px, 0.9, str(t.index)) for t in seen])
    middle = time.perf_counter()
    grasps = plan_grasps(cloud, lifted.detections, gripper)
    ms = 1e3 * (time.perf_counter() - middle) / max(1, len(grasps)), 1e3 * (middle - started) / max(1, len(seen))
    refused = {int(r.id): r.reason for r in lifted.refusals}
    return {int(g.detection_id): g for g in grasps}, {int(d.id): d for d in lifted.detections}, refused, ms


def run_scene(kind: str, seed: int, names, camera: SimCamera, gripper: GripperConfig, options) -> list[Try]:
    rng = np.random.default_rng((0x7E57, seed))
    spec = sample(kind, seed, names, options.elevation)
    world = PhysicalWorld(spec, furnish_hand(gripper, rng.uniform(0.6, 1.0)))
    weigh(world, rng, len(spec.objects))
    hand = FreeHand(world, gripper, len(spec.objects))
    world.settle(longest_s=2.5)
    hand.keep()
    spec = world.spec()
    view = camera.render(spec)
    depth_m = noisy_depth(view.depth_m, view.K, seed, options.noise) if options.depth == "noisy" else view.depth_m
    seen = [t for t in view.truths if t.visibility >= SEEN and t.fully_in_view and t.index < len(spec.objects)]
    seen = [t for t in seen if world.pose(t.index)[2, 3] > 0.0]
    grasps, lifted, refused, ms = targets(view, depth_m, seen, gripper)
    tries = []
    for truth in seen:
        k = truth.index
        grasp, outcome, centre = grasps.get(k), Outcome(False, refused.get(k, "")), float("nan")
        if k in lifted:
            true_middle = middle_of(spec, k)
            centre = float(np.linalg.norm(lifted[k].frame_T_box[:3, 3] - true_middle))
        if grasp is not None:
            outcome = Outcome(False, f"refused: {grasp.reason}")
            if grasp.feasible:
                outcome = hand.grasp(grasp.frame_T_gripper, grasp.width_m, grasp.opening_m, grasp.approach_m, k)
        best = None
        if options.ceiling:
            best = outcome.held or ceiling(spec, k, hand, gripper, seed)
        quality = grasp.quality if grasp is not None and grasp.feasible else 0.0
        tries.append(
            Try(kind, seed, k, truth.label, quality, bool(grasp and grasp.feasible), outcome, best, centre, ms[0])
        )
        if not outcome.held and options.failures:
            hand.back()
            picture = camera.render(world.spec(), rgb=True).rgb
            draw(Path(options.failures), tries[-1], picture, truth.box_xyxy_px, grasp, view, gripper)
    return tries


def middle_of(spec: SceneSpec, index: int) -> np.ndarray:
    """Middle of the true extents along the world's z and the object's own outline in the plane."""
    points, _ = true_surface(spec, index, np.random.default_rng(0))
    (x, y), _, _ = cv2.minAreaRect(points[:, :2].astype(np.float32) * 1000)
    return np.array((x / 1000, y / 1000, (points[:, 2].min() + points[:, 2].max()) / 2))


def draw(folder: Path, one: Try, rgb, box, grasp: GraspTarget | None, view: SimView, gripper: GripperConfig) -> None:
    """The picture with the object's box, the hand where it was to close, and what went wrong."""
    picture = np.ascontiguousarray(rgb[..., ::-1])
    cv2.rectangle(picture, *(tuple(int(v) for v in box[k : k + 2]) for k in (0, 2)), (0, 220, 255), 1)
    if grasp is not None:
        half, up = grasp.width_m / 2, -gripper.finger_length
        shape = ((0, -half, 0), (0, -half, up), (0, half, up), (0, half, 0), (0, 0, up), (0, 0, up - 0.05))
        world = np.array(shape) @ grasp.frame_T_gripper[:3, :3].T + grasp.frame_T_gripper[:3, 3]
        local = (world - view.world_T_camera[:3, 3]) @ view.world_T_camera[:3, :3]
        pixels = np.rint((local @ view.K.T)[:, :2] / local[:, 2:]).astype(int)
        colour = (60, 60, 255) if grasp.feasible else (160, 160, 160)
        cv2.polylines(picture, [pixels[:4]], False, colour, 2)
        cv2.line(picture, *map(tuple, pixels[4:].tolist()), colour, 2)
    for line, text in enumerate((f"{one.kind} {one.scene}: {one.label}, quality {one.quality:.2f}", one.outcome.fault)):
        for start in range(0, max(1, len(text)), 80):
            at = (6, 16 + 16 * line + 14 * (start // 80))
            cv2.putText(picture, text[start : start + 80], at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3)
            cv2.putText(picture, text[start : start + 80], at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1)
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{one.kind}_{one.scene}_{one.index}.jpg"), picture)


# -- the report ----------------------------------------------------------------------------------------------------------
def auroc(quality, held) -> float | None:
    """Chance that what holds was given more quality than what does not; None where all hold, or none."""
    good, bad = quality[held], quality[~held]
    if not len(good) or not len(bad):
        return None
    return round(float(((good[:, None] > bad[None]) + 0.5 * (good[:, None] == bad[None])).mean()), 4)


def calibration_error(quality, held, bins: int = 10) -> float:
    """Expected calibration error over bins of equal count."""
    groups = [g for g in np.array_split(np.argsort(quality, kind="stable"), bins) if len(g)]
    return float(sum(len(g) * abs(quality[g].mean() - held[g].mean()) for g in groups) / len(quality))


def share(values) -> float | None:
    values = [v for v in values if v is not None]
    return round(float(np.mean(values)), 4) if values else None


def report(tries: list[Try]) -> None:
    print(
        "| | objects | feasible | held where feasible | held | ceiling | centre error mm, median / p90 |\n|---|---|---|---|---|---|---|"
    )
    for kind in ("single", "clutter", "builtin"):
        own = [t for t in tries if t.kind == kind]
        if own:
            centre = 1e3 * np.nanpercentile([t.centre_m for t in own], (50, 90))
            feasible = [t for t in own if t.feasible]
            print(
                f"| {kind} | {len(own)} | {share(t.feasible for t in own)} | {share(t.outcome.held for t in feasible)} | "
                f"{share(t.outcome.held for t in own)} | {share(t.ceiling for t in own)} | {centre[0]:.1f} / {centre[1]:.1f} |"
            )
    for why, count in Counter(fault_kind(t) for t in tries if not t.outcome.held).most_common():
        print(f"{count:4d} {why}")
    house = [t for t in tries if t.kind != "builtin"]
    feasible = [t for t in house if t.feasible]
    quality, held = np.array([t.quality for t in feasible]), np.array([t.outcome.held for t in feasible], bool)
    scenes = {}
    for t in (t for t in feasible if t.kind == "clutter"):
        scenes.setdefault(t.scene, []).append(t)
    of = {kind: [t for t in tries if t.kind == kind] for kind in ("single", "clutter", "builtin")}
    print(
        json.dumps(
            {
                "single": share(t.outcome.held for t in of["single"]),
                "clutter": share(t.outcome.held for t in of["clutter"]),
                "best_first": share(max(s, key=lambda t: t.quality).outcome.held for s in scenes.values()),
                "given_feasible": share(held.tolist()),
                "wrong_object": share(t.outcome.wrong for t in house),
                "quality_auroc": auroc(quality, held),
                "quality_ece": round(calibration_error(quality, held), 4) if len(held) else None,
                "ms_per_object": round(float(np.median([t.ms for t in tries])), 2),
                "ceiling_single": share(t.ceiling for t in of["single"]),
                "ceiling_clutter": share(t.ceiling for t in of["clutter"]),
                "builtin": share(t.outcome.held for t in of["builtin"]),
            }
        )
    )


def fault_kind(one: Try) -> str:
    text = one.outcome.fault
    return f"{one.kind}: " + "".join(c for c in text.split(";")[0] if not c.isdigit())[:90]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--single", type=int, default=150)
    parser.add_argument("--clutter", type=int, default=70)
    parser.add_argument("--builtin", type=int, default=30)
    parser.add_argument("--depth", choices=("noisy", "clean"), default="noisy")
    parser.add_argument("--first", type=int, default=REPORTED, help="seed of the first scene")
    parser.add_argument(
        "--hand", default="2f85", help="a preset of config/ by its name (2f85, panda, wsg50), or a file"
    )
    parser.add_argument("--noise", type=float, default=1.0, help="times the depth's noise")
    parser.add_argument("--elevation", type=float, nargs=2, default=(30, 75), help="the camera's, degrees: from, to")
    parser.add_argument("--no-ceiling", dest="ceiling", action="store_false", help="skip the oracle")
    parser.add_argument("--failures", default="", help="folder for pictures of what failed")
    parser.add_argument("--list", action="store_true", help="print every failure")
    options = parser.parse_args()
    gripper = gripper_of(options.hand)
    try:
        names = household_names()
    except InvalidInput as error:
        print(f"only the built-in kinds: {error}")
        names, options.single, options.clutter = [], 0, 0
    tries: list[Try] = []
    with SimCamera(fovy_deg=FOVY_DEG, quality="fast") as camera:
        for kind in ("single", "clutter", "builtin"):
            started = time.perf_counter()
            for seed in range(options.first, options.first + getattr(options, kind)):
                tries += run_scene(kind, seed, names, camera, gripper, options)
            if getattr(options, kind):
                print(f"{kind}: {time.perf_counter() - started:.0f} s", flush=True)
    if options.list:
        for t in (t for t in tries if not t.outcome.held):
            print(
                t.kind,
                t.scene,
                t.index,
                t.label,
                f"{t.quality:.2f} ceiling {t.ceiling} {1e3 * t.centre_m:.0f} mm",
                t.outcome.fault,
            )
    report(tries)


def gripper_of(name: str) -> GripperConfig:
    """The gripper of a preset, or of a ROS parameter file."""
    import yaml

    presets = sorted((Path(__file__).parents[1] / "config").glob("gripper_*.yaml"))
    found = [Path(name)] if Path(name).is_file() else [p for p in presets if name.lower() in p.stem]
    if len(found) != 1:
        raise SystemExit(
            f"--hand {name}: no file, and not one of {', '.join(p.stem for p in presets)} alone; say e.g. panda"
        )
    values = yaml.safe_load(found[0].read_text())
    (parameters,) = (node["ros__parameters"] for node in values.values())
    return replace(Config().gripper, **parameters["gripper"])


if __name__ == "__main__":
    main()
