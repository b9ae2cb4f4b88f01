"""`qwen3vl`, the command line: a picture in, a table or JSON out; a look at the machine; files for runtimes. No ROS.

Exit status: 0 answered (even "saw nothing"), 1 the answer could not be read, `doctor` found something missing or `selftest` failed,
2 bad input, no model, or something that a command needs is not there; `read` tells a malformed answer by 3.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np

from qwen3vl_ros import doctor
from qwen3vl_ros.config import Config, from_flat, parameters
from qwen3vl_ros.export import commands as export_commands
from qwen3vl_ros.geometry import facts
from qwen3vl_ros.inspection import report
from qwen3vl_ros.questions import LOOKING_FOR, Ask, Question, ReadText, phrases
from qwen3vl_ros.questions import commands as question_commands
from qwen3vl_ros.resources import survivable
from qwen3vl_ros.tools import commands as tool_commands
from qwen3vl_ros.types import (
    DeadlinePassed,
    Detection3D,
    Fact,
    Frame,
    InvalidInput,
    MalformedAnswer,
    OutOfResources,
    PerceptionError,
    Scene,
)
from qwen3vl_ros.zoom import Zoom

_LONG_DEADLINE_S = 600.0


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with survivable("on the way"):
            status = arguments.run(arguments)
            sys.stdout.flush()  # a full disk is told here, and not by Python at its end
            return status
    except MalformedAnswer as error:
        print(f"qwen3vl: the answer could not be read: {error}\nthe answer was: {error.text}", file=sys.stderr)
        return 1
    except DeadlinePassed as error:
        print(f"qwen3vl: {error}", file=sys.stderr)
        return 1
    except PerceptionError as error:
        print(f"qwen3vl: {error}", file=sys.stderr)
        if isinstance(error, OutOfResources):  # what stdout could not take is lost, and said once
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except OSError as error:
        if not error.filename:  # of no path that somebody gave
            raise
        print(f"qwen3vl: {error.filename}: {error.strerror}; give a path that can be read and written", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qwen3vl", description="Qwen3-VL without ROS: on one picture, and what it needs to run."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default="", help="checkpoint directory or hub id; default: the embedded model")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    model.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="any parameter of config/perception.yaml, e.g. generation.max_new_tokens=2048",
    )

    detect = commands.add_parser("detect", parents=[model], help="boxes, points, text or an answer for one picture")
    detect.add_argument("image", type=Path, metavar="IMAGE")
    detect.add_argument(
        "what",
        nargs="?",
        default="",
        metavar="WHAT",
        help='phrases separated by commas ("red cube, mug"), or the question of --task ask',
    )
    detect.add_argument("--task", choices=[*LOOKING_FOR, ReadText.name, Ask.name], default="detect")
    detect.add_argument(
        "--region", metavar="X0,Y0,X1,Y1", help="look at this part alone, pixels, at its full resolution"
    )
    detect.add_argument(
        "--around", metavar="PHRASES", default="", help="look closely at what a first look finds of these"
    )
    detect.add_argument(
        "--parts", type=int, default=1, help="2 to 6: also at parts x parts of IMAGE, for what is small"
    )
    detect.add_argument("--depth", type=Path, help="16-bit PNG in mm, or .npy in m, registered to IMAGE")
    detect.add_argument("--camera-info", type=Path, help="calibration YAML of IMAGE's camera; needed for 3D")
    detect.add_argument("--output", type=Path, help="write the annotated picture here")
    detect.add_argument("--json", action="store_true", help="print JSON instead of a table")
    detect.set_defaults(run=_detect)

    measure = commands.add_parser(
        "measure",
        parents=[model],
        help="a relation or distance of things in one picture with depth",
        description="Finds what the phrases name and measures: TRUE, FALSE or UNKNOWN with margin, or a quantity; "
        f"docs/spatial.md has the definitions. RELATION: {', '.join(facts.RELATIONS)}.",
    )
    measure.add_argument("image", type=Path, metavar="IMAGE")
    measure.add_argument("relation", choices=facts.RELATIONS, metavar="RELATION")
    measure.add_argument("arguments", nargs="*", metavar="PHRASE", help='e.g. "red cube" bowl; table is the support')
    measure.add_argument(
        "--depth", type=Path, required=True, help="16-bit PNG in mm, or .npy in m, registered to IMAGE"
    )
    measure.add_argument("--camera-info", type=Path, required=True, help="calibration YAML of IMAGE's camera")
    measure.add_argument("--view", default="viewer", help="whose left and front: viewer (default) or robot")
    measure.add_argument("--json", action="store_true", help="print JSON instead of a line")
    measure.set_defaults(run=_measure)

    ask = commands.add_parser(
        "ask",
        parents=[model],
        help="a question in words about one picture, answered with what is measured in it",
        description="Where is the cup? Is it left of the bowl? How far is it? In English or Chinese; what the model says is checked "
        "against the facts (docs/spatial.md). Without --depth nothing is measured.",
    )
    ask.add_argument("image", type=Path, metavar="IMAGE")
    ask.add_argument("question", metavar="QUESTION", help='e.g. "Is the red cube left of the mug?"')
    ask.add_argument("--depth", type=Path, help="16-bit PNG in mm, or .npy in m, registered to IMAGE")
    ask.add_argument("--camera-info", type=Path, help="calibration YAML of IMAGE's camera; needed to measure")
    ask.add_argument("--view", default="", help="whose left and front: viewer (default) or robot")
    ask.add_argument("--words-only", action="store_true", help="the model's own words, with nothing measured")
    ask.add_argument("--json", action="store_true", help="print JSON instead of the answer and its facts")
    ask.set_defaults(run=_ask)

    read = commands.add_parser(
        "read-text",
        parents=[model],
        help="all the text in one picture, line by line, with its language and a translation",
        description="Reads lines of text with their boxes. Languages are told by script alone (und-Latn: some language in Latin "
        "letters). A translation is a second pass of the model; where it fails, a note says why and the lines stand.",
    )
    read.add_argument("image", type=Path, metavar="IMAGE")
    read.add_argument("--translate-to", metavar="LANG", help="BCP-47, e.g. en, zh or pt-BR")
    read.add_argument("--json", action="store_true", help="print JSON instead of a table")
    read.set_defaults(run=_read_text)

    check = commands.add_parser("doctor", parents=[model], help="what is installed, what would run, what is missing")
    check.add_argument("--quick", action="store_true", help="do not load and run the model")
    check.set_defaults(run=lambda a: doctor.report(_config(a), quick=a.quick))

    test = commands.add_parser(
        "selftest",
        parents=[model],
        help="ask about pictures whose truth is known: a page to paste into an issue",
        description="Asks the model about drawn and rendered pictures, for at most two minutes, and prints a page of Markdown. Its "
        "last line is a JSON object: passed, failed, explained, engine. Exit status 1 where something failed.",
    )
    test.add_argument("--json", action="store_true", help="print JSON instead, an object a line")
    test.set_defaults(run=_selftest)

    question_commands.add_commands(commands)
    report.add_commands(commands)
    export_commands.add_commands(commands)
    tool_commands.add_commands(commands)
    _add_sample(commands)
    return parser


def _selftest(arguments: argparse.Namespace) -> int:
    from qwen3vl_ros.selftest.page import report

    return report(_config(arguments), arguments.json)


def _add_sample(commands: argparse._SubParsersAction) -> None:
    sample = commands.add_parser(
        "sample", help="write a simulated picture, its depth and its calibration, to try things with"
    )
    sample.add_argument("folder", type=Path, metavar="FOLDER")
    sample.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace) -> int:
    from qwen3vl_ros.sim.sample import write_sample  # the simulator takes a second to import

    for path in write_sample(arguments.folder):
        print(path)
    return 0


def _config(arguments: argparse.Namespace) -> Config:
    kinds = {p.name: type(p.default) for p in parameters()}
    # Nobody's robot waits for this answer, and a large model on a CPU takes minutes.
    values: dict[str, Any] = {
        "model": arguments.model,
        "device": arguments.device,
        "generation.deadline": _LONG_DEADLINE_S,
    }
    for setting in arguments.settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InvalidInput(f"--set {setting!r} must be NAME=VALUE, e.g. --set generation.max_new_tokens=2048")
        values[name] = _value(name, text, kinds.get(name, str))
    return from_flat(values)


def _value(name: str, text: str, kind: type) -> Any:
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind is tuple:
        return tuple(t.strip() for t in text.split(","))
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError:
        raise InvalidInput(f"--set {name}={text!r} must be {'a whole number' if kind is int else 'a number'}") from None


# -- detect ---------------------------------------------------------------------------------------------------------


def _detect(arguments: argparse.Namespace) -> int:
    # Everything cheap is checked before the model is loaded.
    config = _config(arguments)
    question, zoom = _question(arguments.task, arguments.what), _zoom(arguments)
    frame = _frame(arguments.image, arguments.depth, arguments.camera_info, config)
    _check_output(arguments.output)
    from qwen3vl_ros.draw import draw_scene
    from qwen3vl_ros.files import write_picture
    from qwen3vl_ros.loading import load_tested_engine
    from qwen3vl_ros.pipeline import Perception

    started = time.perf_counter()
    engine = load_tested_engine(config)
    load_s = time.perf_counter() - started
    try:
        scene = Perception(engine, config).look(frame, question, zoom=zoom)
    finally:
        engine.close()
    if arguments.json:
        told = {"image": str(arguments.image), "size_px": frame.size_px, "engine": dataclasses.asdict(engine.info)}
        _print_json({**told, "load_s": load_s, **_as_dict(scene)})
    else:
        i = engine.info
        print(
            f"{arguments.image}  {frame.size_px[0]}x{frame.size_px[1]}  |  {i.model}, {i.size}{', ' * bool(i.size)}"
            f"{i.device} {i.dtype}, loaded in {load_s:.1f} s"
        )
        print(table(scene))
    if arguments.output:
        try:
            write_picture(arguments.output, draw_scene(frame, scene, config.gripper))
        except OSError as error:
            raise InvalidInput(f"--output {arguments.output} could not be written: {error.strerror}") from error
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    facts.check(arguments.relation, arguments.arguments, arguments.view)
    asked = Fact(arguments.relation, tuple(arguments.arguments), arguments.view)
    told = _with_asker(arguments, config, lambda asker, shot: asker.measure(shot, [asked]))
    (fact,) = told.facts
    if arguments.json:
        _print_json(_fact_dict(fact))
    else:
        print(_fact_lines(fact))
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    config, question = _config(arguments), Ask(arguments.question).question
    if arguments.view not in ("", "viewer", "robot"):
        raise InvalidInput(f"--view {arguments.view!r} is unknown; known are viewer and robot")
    measured, view = not arguments.words_only, arguments.view
    told = _with_asker(arguments, config, lambda asker, shot: asker.ask([shot], question, view=view, measure=measured))
    if arguments.json:
        _print_json(
            {
                "answer": told.answer,
                "code": told.code.name,
                "message": told.message,
                "understood_by": told.understood_by.name,
                "asked": told.asked,
                "find": told.find,
                "worded_by": told.worded_by.name,
                "model_answer": told.model_answer,
                "disagreement": told.disagreement,
                "facts": [_fact_dict(fact) for fact in told.facts],
                "detections_2d": [dataclasses.asdict(d) for d in told.detections_2d[0]],
                "detections_3d": [_box_dict(d) for d in told.detections_3d[0]],
            }
        )
        return 0
    print(told.answer)
    for fact in told.facts:
        print(f"  {_fact_lines(fact)}".replace("\n", "\n    "))
    if told.disagreement:
        print(f"  the model said otherwise ({told.disagreement}): {told.model_answer}")
    return 0


def _read_text(arguments: argparse.Namespace) -> int:
    if arguments.translate_to is not None:
        arguments.settings.append(f"translate_to={arguments.translate_to}")
    config = _config(arguments)
    frame = _frame(arguments.image, None, None, config)
    from qwen3vl_ros.loading import load_tested_engine
    from qwen3vl_ros.pipeline import Perception
    from qwen3vl_ros.text import read_text

    engine = load_tested_engine(config)
    try:
        text = read_text(Perception(engine, config), frame)
    finally:
        engine.close()
    if arguments.json:
        told = {"image": str(arguments.image), "size_px": frame.size_px, "engine": dataclasses.asdict(engine.info)}
        _print_json(told | dataclasses.asdict(text))
    elif text.lines:
        rows = [
            [line.text, line.language, line.translation, _score(line.score), _numbers(line.box_xyxy_px, ".0f")]
            for line in text.lines
        ]
        print("\n".join(_columns(["text", "language", "translation", "score", "x0 y0 x1 y1, px"], rows)))
    else:
        print("looked and saw no text")
    if text.note:
        print(f"qwen3vl: {text.note}", file=sys.stderr)
    return 0


def _with_asker(arguments: argparse.Namespace, config: Config, use: Callable[[Any, Any], Any]) -> Any:
    """What `use` makes of an Asker and the picture."""
    frame = _frame(arguments.image, arguments.depth, arguments.camera_info, config)
    from qwen3vl_ros.asking import Asker, Shot
    from qwen3vl_ros.loading import load_tested_engine
    from qwen3vl_ros.pipeline import Perception

    engine = load_tested_engine(config)
    try:
        return use(Asker(Perception(engine, config)), Shot(frame))
    finally:
        engine.close()


def _fact_dict(fact: Fact) -> dict[str, Any]:
    return dataclasses.asdict(fact) | {"verdict": fact.verdict.name}


def _fact_lines(fact: Fact) -> str:
    values = ", ".join(f"{q.name} {q.value:.3f} {q.unit}".strip() for q in fact.values)
    told = f"{fact.verdict.name}: {fact.relation}({', '.join(fact.arguments)})" + f"  {values}" * bool(values)
    return f"{told}\n{fact.reason}"


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _question(task: str, what: str) -> Question:
    if task == Ask.name:
        return Ask(what)
    if task == ReadText.name:
        if what.strip():
            raise InvalidInput(f"WHAT is {what!r}, but --task read_text reads all text; leave WHAT out")
        return ReadText()
    return LOOKING_FOR[task](tuple(w for w in what.split(",") if w.strip()))


def _zoom(arguments: argparse.Namespace) -> Zoom:
    region = None
    if arguments.region is not None:
        try:
            region = tuple(int(v) for v in arguments.region.split(","))
        except ValueError:
            region = ()
        if len(region) != 4:
            raise InvalidInput(f"--region {arguments.region!r} must be four whole numbers of pixels, X0,Y0,X1,Y1")
    return Zoom(
        region,
        phrases.checked_targets(tuple(w for w in arguments.around.split(",") if w.strip()), "--around")
        if arguments.around
        else (),
        arguments.parts,
    )


def _frame(image: Path, depth: Path | None, camera_info: Path | None, config: Config) -> Frame:
    from qwen3vl_ros.files import read_depth_m, read_intrinsics, read_rgb

    limit = config.max_image_pixels
    rgb = read_rgb(image, limit)
    if depth is None and camera_info is None:
        return Frame(0, "camera", rgb)
    if camera_info is None:
        raise InvalidInput(
            f"--depth {depth} says how far, not where: add --camera-info with the calibration of {image}"
        )
    rectified = config.rectification == "rectified"
    intrinsics = read_intrinsics(camera_info, (rgb.shape[1], rgb.shape[0]), rectified)
    return Frame(0, "camera", rgb, None if depth is None else read_depth_m(depth, limit), *intrinsics)


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    import cv2

    if not cv2.haveImageWriter(str(output)):
        raise InvalidInput(f"--output {output} has no ending OpenCV can write; end it in .png or .jpg")
    if not output.absolute().parent.is_dir():
        raise InvalidInput(f"--output {output}: the folder {output.absolute().parent} does not exist; make it first")


# -- what it says ---------------------------------------------------------------------------------------------------


def table(scene: Scene) -> str:
    """The scene for people: a line an object, then what was lost and how long it took."""
    lines: list[str] = []
    if isinstance(scene.value, str):
        lines += [scene.text]
    solid = {d.id: d for d in scene.detections_3d}
    grasps = {g.detection_id: g for g in scene.grasps}
    refused = {r.id: r.reason for r in scene.refusals}
    rows = []
    for d in scene.detections_2d:
        rows.append(
            [
                d.id,
                d.label,
                _score(d.score),
                _numbers(d.box_xyxy_px, ".0f"),
                *_in_space(solid.pop(d.id, None)),
                _grasp(grasps.get(d.id)),
            ]
        )
    rows += [[d.id, d.label, _score(d.score), "", *_in_space(d), _grasp(grasps.get(d.id))] for d in solid.values()]
    rows += [["", p.label, _score(p.score), _numbers(p.xy_px, ".0f"), "", "", ""] for p in scene.points]
    if rows:
        place = "x y, px" if scene.points else "x0 y0 x1 y1, px"
        lines += _columns(["id", "label", "score", place, "centre x y z, m", "size, mm", "grasp"], rows)
    elif scene.value is None:
        lines.append(
            "looked and saw nothing" + f" of {', '.join(scene.question.targets)}" * bool(scene.question.targets)
        )
    labels = {d.id: d.label for d in scene.detections_2d}
    if len(refused) > 1 and len(set(refused.values())) == 1:
        lines.append(f"no 3D boxes: {next(iter(refused.values()))}")
    else:
        lines += [f"no 3D box for {labels.get(i, i)} ({i}): {reason}" for i, reason in refused.items()]
    if scene.dropped:
        lines.append(f"{scene.dropped} object{'s' * (scene.dropped != 1)} in the answer could not be read")
    if scene.truncated:
        lines.append(f"the answer is incomplete: it ended by {scene.generation.finish_reason!r}")
    g = scene.generation
    speed = f" ({g.generated_tokens / g.decode_s:.0f} tokens/s)" if g.decode_s > 1e-4 else ""
    lines.append(
        f"{g.prompt_tokens} + {g.generated_tokens} tokens in {g.total_s:.2f} s: preprocess "
        f"{g.preprocess_s:.3f}, prefill {g.prefill_s:.3f}, decode {g.decode_s:.3f}{speed}; geometry {scene.geometry_s:.3f} s"
    )
    return "\n".join(lines)


def _in_space(d) -> list[str]:
    if d is None:
        return ["", ""]
    return [
        _numbers(d.frame_T_box[:3, 3], ".3f"),
        _numbers(1000 * np.asarray(d.size_m), ".0f") + (" (model's guess)" if d.source == "model" else ""),
    ]


def _grasp(grasp) -> str:
    if grasp is None:
        return ""
    if not grasp.feasible:
        return f"none: {grasp.reason}"
    place = _numbers(grasp.frame_T_gripper[:3, 3], ".3f")
    return f"{grasp.width_m * 1000:.0f} mm wide, quality {grasp.quality:.2f}, at {place}"


def _score(score: float) -> str:
    return "" if math.isnan(score) else f"{score:.2f}"


def _numbers(values, form: str) -> str:
    return " ".join(format(float(v), form) for v in values)


def _columns(head: list[str], rows: list[list[str]]) -> list[str]:
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in used]
    cells = [[row[i].ljust(width) for i, width in zip(used, widths)] for row in [head, *rows]]
    cells.insert(1, ["-" * width for width in widths])
    return ["  ".join(row).rstrip() for row in cells]


def _as_dict(scene: Scene) -> dict[str, Any]:
    g = scene.generation
    return {
        "task": scene.question.name,
        "targets": scene.question.targets,
        "question": getattr(scene.question, "question", ""),
        "frame_id": scene.frame_id,
        "answer": scene.text,
        "reasoning": g.reasoning,
        "finish_reason": g.finish_reason,
        "truncated": scene.truncated,
        "dropped": scene.dropped,
        "detections_2d": [dataclasses.asdict(d) for d in scene.detections_2d],
        "points": [dataclasses.asdict(p) for p in scene.points],
        "detections_3d": [_box_dict(d) for d in scene.detections_3d],
        "refusals": [dataclasses.asdict(r) for r in scene.refusals],
        "grasps": [
            {
                **{f.name: getattr(grasp, f.name) for f in dataclasses.fields(grasp)},
                "frame_T_gripper": grasp.frame_T_gripper.tolist(),
            }
            for grasp in scene.grasps
        ],
        "tokens": {
            "prompt": g.prompt_tokens,
            "generated": g.generated_tokens,
            "forward_passes": g.forward_passes,
            "drafted": g.drafted_tokens,
            "accepted": g.accepted_tokens,
            "reused": g.reused_tokens,
        },
        "times_s": {
            "preprocess": g.preprocess_s,
            "prefill": g.prefill_s,
            "decode": g.decode_s,
            "geometry": scene.geometry_s,
        },
    }


def _box_dict(d: Detection3D) -> dict[str, Any]:
    return {
        "id": d.id,
        "label": d.label,
        "score": d.score,
        "frame_id": d.frame_id,
        "source": d.source,
        "frame_T_box": d.frame_T_box.tolist(),
        "size_m": np.asarray(d.size_m).tolist(),
        "support": d.support,
    }


def _finite(value: Any) -> Any:
    """The same with NaN ("not measured") as None and NumPy scalars as Python's, since JSON has neither."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
