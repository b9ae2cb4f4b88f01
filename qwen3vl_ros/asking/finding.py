"""What phrases name in one picture: each is looked for by itself, what the model calls otherwise is left out, all are lifted together.

An answer under another name than the one asked for is how models invent things that are not there: it is no find; nor is what has clearly
another colour than the phrase says. Knows nothing of
questions in words and of relations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Iterator, Mapping, Sequence

import numpy as np

from qwen3vl_ros.asking import shapes
from qwen3vl_ros.asking.agreeing import AGREE_IOU, agreed, once, one_name_each
from qwen3vl_ros.asking.colours import contradicts, of_another
from qwen3vl_ros.asking.rivals import called_otherwise, outdone, pieces
from qwen3vl_ros.boxes import iou
from qwen3vl_ros.control import Control
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.geometry.cloud import SceneCloud
from qwen3vl_ros.geometry.layout import Layout, same_name
from qwen3vl_ros.geometry.lift import lift_boxes
from qwen3vl_ros.geometry.lifted import Lifted
from qwen3vl_ros.geometry.observed import layout_of
from qwen3vl_ros.geometry.opening import closed
from qwen3vl_ros.geometry.things import Thing
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.questions.aliases import in_chinese, in_english, other_names, rivals, same_thing
from qwen3vl_ros.questions.others import parted
from qwen3vl_ros.questions.parsing.wanted import core
from qwen3vl_ros.types import DeadlinePassed, Detection2D, Detection3D, Frame, Generation, MalformedAnswer, View
from qwen3vl_ros.zoom import WHOLE, Zoom, around, joined

ANYTHING = ("object", "物体")
TABLE = ("table", "desk", "tabletop", "table top", "桌子", "桌面", "台面", "桌", "台子")
_SAME_IOU = 0.55
_MAX_OTHER_NAMES = 2
_CLOSELY = Zoom(parts=2)
_ASTRAY_M = 0.5  # nearer or farther than a thing should be: then another one was boxed
_CLOSER = (3.0, 4.5)  # the same for what was found in the whole picture and is looked at again
_MAX_CLOSER = 3  # finds of one name
_OTHERS_SHARE = 0.08  # of what was lifted: so much of another colour than the name says is another thing
_AROUND = (2.0, 3.0, 1.3)  # the width of a part of the picture, of that of the thing it should show


@dataclass(frozen=True, eq=False)
class Shot:
    """A picture to be asked of. lacks: why it cannot be measured in, empty if it can; stale: that is because its depth is late.

    known: things of this picture's frame that were just seen and stand still; answered: phrases whose things, if any is among
    them, are all among them, so that they need not be looked for. now_ns: when facts are asked, by default the picture's stamp. frame_T_robot: 4x4, the
    robot's base in the frame of the results, None where nobody knows it.
    """

    frame: Frame
    camera: str = ""
    lacks: str = ""
    stale: bool = False
    no_pose: bool = False
    known: tuple[Thing, ...] = ()
    answered: tuple[str, ...] = ()
    now_ns: int | None = None
    frame_T_robot: np.ndarray | None = None

    @property
    def lacking(self) -> str:
        """What it cannot be measured for, where `lacks` says so: "pose", "stale" or "depth"."""
        return "pose" if self.no_pose else "stale" if self.stale else "depth"


@dataclass(frozen=True, eq=False)
class Found:
    """What is where in one picture. generation: the model's last, None where it was not asked. cloud: the picture's depth."""

    shot: Shot
    layout: Layout
    detections_2d: tuple[Detection2D, ...] = ()
    detections_3d: tuple[Detection3D, ...] = ()
    generation: Generation | None = None
    cloud: SceneCloud | None = None


def canonical(name: str) -> str:
    """The name as geometry has it: any word for the table is the table."""
    return "table" if name.strip().lower() in TABLE else name.strip()


class Finder:
    """Looks for phrases with a Perception.

    closely: what is not seen at once is asked for in the other language, and then in parts of the picture: for work that depends
    on finding it. It makes a thing that is not there six times as dear.
    """

    def __init__(self, perception: Perception, closely: bool = False):
        self._perception, self._closely = perception, closely
        self._seen: SceneCloud | None = None  # the depth of the last picture: every box of it is measured in the same

    def _cloud(self, shot: Shot) -> SceneCloud:
        if self._seen is None or self._seen.frame is not shot.frame:
            self._seen = SceneCloud.of(shot.frame, self._perception.config.lift)
        return self._seen

    def find(
        self,
        shot: Shot,
        names: Sequence[str],
        control: Control | None = None,
        anything: Sequence[str] = (),
        expected: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Found:
        """The layout of a picture with all that `names` may mean. anything: names of whatever else counts, () for nothing;
        they are looked for where everything that is named was found. expected: phrase -> corners Nx3, in the frame of the results, of
        where a thing should be: what is not seen at once is looked for there, and what is half a metre nearer or farther is not it.

        Raises InvalidInput for a phrase that no prompt can hold, Cancelled, DeadlinePassed, MalformedAnswer, EngineError.
        """
        ids = {t.id for t in shot.known}
        phrases = [
            p
            for p in facts.things_named("distance", [canonical(n) for n in names])
            if p not in ids and p not in ANYTHING
        ]
        for phrase in phrases:
            Detect((phrase,))  # refused before the model is asked
        boxes: list[Detection2D] = []
        generation = None
        for phrase in phrases:
            # Looked for with others and not among what was seen may only mean that it was called otherwise there.
            if all(
                any(same_name(phrase, n) for n in names) for names in (shot.answered, [t.label for t in shot.known])
            ):
                continue
            generation, seen = self._sought(shot, phrase, control, expected.get(phrase))
            boxes += seen
        boxes = one_name_each(boxes)
        labels = [*(b.label for b in boxes), *(t.label for t in shot.known)]
        whole = all(any(same_name(p, label) for label in labels) for p in phrases)
        others = [a for a in anything if whole and not any(same_name(a, b) for b in shot.answered)]
        if others:
            generation, seen = self._look(shot, Detect(tuple(others)), control)
            boxes += [d for d in seen if all(iou(d.box_xyxy_px, b.box_xyxy_px) < _SAME_IOU for b in boxes)]
        known = [t for t in shot.known if t.id in names or any(same_name(t.label, a) for a in shot.answered)]
        return self._measured(shot, tuple(boxes), known, generation, (*phrases, *anything))

    def _sought(
        self, shot: Shot, phrase: str, control: Control | None, corners_m: np.ndarray | None = None
    ) -> tuple[Generation, list[Detection2D]]:
        """What one phrase names; corners_m: of where it should be, if anybody knows."""
        kind, but = parted(phrase)
        known = {name: self._sought(shot, name, control)[1] for name in but}
        unread, seen = None, []
        for name, zoom in self._ways(shot, kind, corners_m):
            try:
                generation, seen = self._named(shot, Detect((name,)), phrase, control, zoom)
                seen = [d for d in seen if all(_is_another(shot, d, n, boxes) for n, boxes in known.items())]
                if corners_m is not None:
                    seen = [d for d in seen if self._as_far(shot, d, corners_m)]
                elif seen and self._closely:
                    seen = self._looked_closer(shot, Detect((name,)), phrase, control, seen)
            except MalformedAnswer as error:
                unread, seen = error, []  # another look may be answered in order
            if seen:
                break
        if unread is not None and not seen:
            raise unread
        return generation, seen

    def _ways(self, shot: Shot, phrase: str, corners_m: np.ndarray | None) -> Iterator[tuple[str, Zoom]]:
        """How a phrase is looked for, until something is seen."""
        yield from ((name, WHOLE) for name in (phrase, *other_names(phrase)[:_MAX_OTHER_NAMES]))
        if corners_m is not None and (box := self._box_of(shot, corners_m)) is not None:
            yield from ((phrase, Zoom(around(box, shot.frame.size_px, m).region_xyxy_px)) for m in _AROUND)
        if self._closely:
            yield from ((name, WHOLE) for name in (in_chinese(phrase), in_english(phrase)) if name != phrase)
            for box in pieces(self._cloud(shot), phrase):
                yield phrase, Zoom(around(box, shot.frame.size_px, _CLOSER[0]).region_xyxy_px)
            yield phrase, _CLOSELY

    def _named(
        self, shot: Shot, asked: Detect, phrase: str, control: Control | None, zoom: Zoom
    ) -> tuple[Generation, list[Detection2D]]:
        """What one look finds that can be what the phrase names, labelled with it."""
        generation, seen = self._look(shot, asked, control, zoom)
        seen = [replace(d, label=phrase) for d in seen if _is_called(d.label, asked.targets[0])]
        return generation, [d for d in seen if not contradicts(shot.frame.rgb, d.box_xyxy_px, phrase)]

    def _looked_closer(
        self, shot: Shot, asked: Detect, phrase: str, control: Control | None, seen: list[Detection2D]
    ) -> list[Detection2D]:
        """What a look and two closer ones around each of its finds agree upon."""
        size_px, found, kind = shot.frame.size_px, [], parted(phrase)[0]
        among = Detect((kind, *rivals(kind)))
        for one in seen[:_MAX_CLOSER]:
            looks, choices = [], []
            for scale in _CLOSER:  # both questions of one part in turn: it is seen once
                part = Zoom(around(one.box_xyxy_px, size_px, scale).region_xyxy_px)
                looks.append(self._named(shot, asked, phrase, control, part)[1])
                choices.append(self._chosen(shot, among, control, part))
            for best in agreed([one], looks):
                chosen = [max(shown, key=_score) for c in choices if (shown := [d for d in c if _overlap(d, best)])]
                if len(chosen) < len(choices) or not called_otherwise(phrase, chosen):
                    found.append(best)
        return [d for d in once(found) if not self._of_another_form(shot, d)]

    def _chosen(self, shot: Shot, among: Detect, control: Control | None, part: Zoom) -> list[Detection2D]:
        """What a look boxes that may choose among names; nothing where it cannot be read."""
        try:
            return self._look(shot, among, control, part)[1]
        except MalformedAnswer:
            return []

    def _of_another_form(self, shot: Shot, seen: Detection2D) -> bool:
        """Whether what a box shows is measured to be no such thing."""
        cloud = self._cloud(shot)
        (solid,) = lift_boxes(cloud, (seen,)).detections or (None,)
        if solid is None or solid.source != "depth" or not len(solid.points_camera_m):
            return False
        layout = layout_of(cloud, (solid,))
        body = layout.body_of(layout.things[0])
        top = closed(body.thing.seen_m @ layout.level_R_frame.T, body.thing.sigma_m)
        if shapes.contradicts(seen.label, body.thing, tuple(body.size_m), top):
            return True
        return outdone(cloud, solid, seen.box_xyxy_px)

    def _as_far(self, shot: Shot, seen: Detection2D, corners_m: np.ndarray) -> bool:
        """Whether what is in a box is about as far from the camera as the corners, or nobody knows."""
        cloud = self._cloud(shot)
        if not cloud.usable:
            return True
        (x0, y0, x1, y1), camera_T_frame = seen.box_xyxy_px, np.linalg.inv(cloud.frame_T_camera)
        inner = cloud.depth_m[
            int((3 * y0 + y1) / 4) : int((y0 + 3 * y1) / 4) + 1, int((3 * x0 + x1) / 4) : int((x0 + 3 * x1) / 4) + 1
        ]
        measured = inner[np.isfinite(inner) & (inner > 0)]
        should_m = float((corners_m @ camera_T_frame[2, :3] + camera_T_frame[2, 3]).mean())
        return not len(measured) or abs(float(np.median(measured)) - should_m) < _ASTRAY_M

    def _box_of(self, shot: Shot, corners_m: np.ndarray) -> np.ndarray | None:
        """The box in the picture around points Nx3 of the results' frame; None where they are not in view."""
        cloud = self._cloud(shot)
        if not cloud.usable:
            return None
        camera_T_frame = np.linalg.inv(cloud.frame_T_camera)
        pixels = cloud.project_px(corners_m @ camera_T_frame[:3, :3].T + camera_T_frame[:3, 3])
        low, high = pixels.min(0), pixels.max(0)
        inside = np.isfinite(pixels).all() and (low > 0).all() and (high < shot.frame.size_px).all()
        return np.concatenate((low, high)) if inside else None

    def _look(
        self, shot: Shot, question: Detect, control: Control | None, zoom: Zoom = WHOLE
    ) -> tuple[Generation, list[Detection2D]]:
        if zoom == WHOLE:
            generation = self._perception.generate(shot.frame, question, control, camera=shot.camera)
            answer = self._perception.read(question, generation, View(shot.frame.size_px))
        else:
            looks = self._perception.ask(shot.frame, question, control, camera=shot.camera, zoom=zoom)
            answer, generation = (
                self._perception.answer_of(question, looks, zoom),
                joined([k.generation for k in looks]),
            )
        if generation.finish_reason == "deadline":  # what was not said yet would count as absent
            raise DeadlinePassed(f"the time was over while {', '.join(question.targets)} was looked for; allow it more")
        least = self._perception.config.min_score
        return generation, [d for d in answer.detections if not d.score < least]

    def _measured(
        self, shot: Shot, boxes: tuple[Detection2D, ...], known: Sequence[Thing], generation, looked_for
    ) -> Found:
        config = self._perception.config
        named, lifted, cloud = self._perception.place(
            shot.frame, ("found", looked_for), boxes, shot.camera, self._cloud(shot)
        )
        lifted = _of_their_colours(cloud, named, lifted)
        things = [t for t in known if all(t.id != d.id for d in named)]
        layout = layout_of(
            cloud,
            lifted.detections,
            lifted.refusals,
            shot.frame_T_robot,
            known_things=things,
            shelf=next((p for p in looked_for if same_thing(p, "shelf") or same_thing(p, "架子")), ""),
            looked_for=(*looked_for, *shot.answered),
            gripper_opening_m=config.gripper.max_width,
            now_ns=shot.now_ns,
        )
        flat, solid = zip(*(_as_detections(t, cloud) for t in things)) if things else ((), ())
        return Found(shot, layout, (*named, *flat), (*lifted.detections, *solid), generation, cloud)


def _score(seen: Detection2D) -> float:
    return float(np.nan_to_num(seen.score))


def _overlap(a: Detection2D, b: Detection2D) -> bool:
    return iou(a.box_xyxy_px, b.box_xyxy_px) > AGREE_IOU


def _is_another(shot: Shot, seen: Detection2D, name: str, boxes: Sequence[Detection2D]) -> bool:
    """Whether a box shows something else than what has that name, which was boxed there; if it was not, it must clearly not be it."""
    if boxes:
        return not any(_overlap(seen, b) for b in boxes)
    return contradicts(shot.frame.rgb, seen.box_xyxy_px, name)


def _of_their_colours(cloud: SceneCloud, flat: Sequence[Detection2D], lifted: Lifted) -> Lifted:
    """What was lifted, without what has clearly another colour than the name says: that stands on the thing, or before it."""
    solids, refusals = [], list(lifted.refusals)
    for solid in lifted.detections:
        box = next(d for d in flat if d.id == solid.id)
        other = of_another(cloud.frame.rgb, box.box_xyxy_px, box.label)
        if other.any() and len(solid.points_camera_m):
            at = np.rint(cloud.project_px(solid.points_camera_m)).astype(int)
            column, row = np.clip(at, 0, np.array(other.shape[::-1]) - 1).T
            if other[row, column].mean() > _OTHERS_SHARE:
                again = lift_boxes(cloud.without(other), (box,))
                solids += again.detections
                refusals += again.refusals
                continue
        solids.append(solid)
    return Lifted(tuple(solids), tuple(refusals))


def _as_detections(thing: Thing, cloud: SceneCloud) -> tuple[Detection2D, Detection3D]:
    """A thing that was not looked for again, as if it had been: its box around what was seen of it."""
    camera_T_frame = np.linalg.inv(cloud.frame_T_camera)
    pixels = cloud.project_px(thing.seen_m @ camera_T_frame[:3, :3].T + camera_T_frame[:3, 3])
    pixels = pixels[np.isfinite(pixels).all(1)] + 0.5
    low, high = (pixels.min(0), pixels.max(0)) if len(pixels) else (np.zeros(2), np.zeros(2))
    size = np.array(cloud.frame.size_px, float)
    box = tuple(float(v) for v in (*np.clip(low, 0, size), *np.clip(high, 0, size)))
    solid = Detection3D(thing.id, thing.label, math.nan, cloud.frame_id, thing.frame_T_box, np.asarray(thing.size_m))
    return Detection2D(thing.label, box, math.nan, thing.id), solid


def usable(shot: Shot, perception: Perception) -> str:
    """Why a picture cannot be measured in; empty if it can."""
    return shot.lacks or SceneCloud.of(shot.frame, perception.config.lift).reason


def _is_called(label: str, phrase: str) -> bool:
    """Whether an answer's label says the phrase, more of it or less of it: "red mug" is a mug; a cube is none."""
    said, asked = core(label), core(phrase)
    if said == asked or same_thing(phrase, label):
        return True
    said_words, asked_words = said.replace("的", " ").split(), asked.replace("的", " ").split()
    if not said_words or not asked_words or said_words[-1] != asked_words[-1]:
        return False
    return set(said_words) <= set(asked_words) or set(asked_words) <= set(said_words)  # a red mug is no blue one
