"""The only declaration of every parameter: frozen dataclasses whose fields carry a doc, a range and a unit.

Validated when made, so no half-valid configuration exists. The ROS node declares its parameters by walking
`parameters()`, and `config/perception.yaml` and README's table are written from it (`python -m qwen3vl_ros.config`).
Names are flat for what users set daily (`model`, `max_age`) and dotted for the rest (`gripper.max_width`).
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Sequence

from qwen3vl_ros.types import InvalidInput, quoted


def _p(
    default: Any,
    doc: str,
    *,
    range: tuple[float, float] | None = None,
    choices: tuple[str, ...] | None = None,
    live: bool = False,
    camera: bool = False,
):
    """A parameter: range is inclusive; live ones may change while the node is active, the others need a configure. Of
    those marked camera, each camera may have its own value."""
    meta = {"doc": doc, "range": range, "choices": choices, "live": live, "camera": camera}
    return field(default=default, metadata=meta)


def checked_language(tag: str, name: str) -> None:
    """Raises InvalidInput for what has not the form of a BCP-47 tag; empty is none. name: what is said to be wrong."""
    if tag and not re.fullmatch("[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,4}", tag):
        raise InvalidInput(f"{name} {quoted(tag)} is no BCP-47 language tag; write e.g. en, zh or pt-BR")


class _Validated:
    """Checks every field's type, range and choice when the dataclass is made."""

    def __post_init__(self):
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value, kind, meta = getattr(self, f.name), hints[f.name], f.metadata
            if dataclasses.is_dataclass(kind):
                continue
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
                value = tuple(v for v in value if v != "")  # ROS cannot write an empty string list in YAML
                right_type = all(isinstance(v, str) for v in value)
            else:
                right_type = type(value) is kind
            if not right_type:
                raise InvalidInput(f"parameter {f.name} = {value!r} must be {_type_name(kind)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput(f"parameter {f.name} = {value!r} must be finite")
            if meta.get("range") and not meta["range"][0] <= value <= meta["range"][1]:
                raise InvalidInput(f"parameter {f.name} = {value!r} is outside {list(meta['range'])}")
            if meta.get("choices") and value not in meta["choices"]:
                raise InvalidInput(f"parameter {f.name} = {value!r} is not one of {', '.join(meta['choices'])}")
            object.__setattr__(self, f.name, value)


@dataclass(frozen=True)
class GenerationConfig(_Validated):
    """How the model answers."""

    max_new_tokens: int = _p(
        1024, "Longest answer, in tokens; a longer one is truncated and says so.", range=(1, 32768), live=True
    )
    deadline: float = _p(
        30.0,
        "Longest time for one answer, seconds; then the complete objects so far are kept.",
        range=(0.05, 3600.0),
        live=True,
    )
    repeat_limit: int = _p(
        4, "Stop after the same object was said this many times in a row.", range=(2, 100), live=True
    )
    guided: bool = _p(
        False, "Hold answers to their JSON schema: none can be malformed, and braces cost no pass.", live=True
    )
    text_first: bool = _p(
        False,
        "Put the prompt before the image: what the model has read of it is then kept from frame to "
        "frame. The embedded model was trained with the image first, and servers get it first.",
        live=True,
    )
    min_pixels: int = _p(
        0, "Smallest image area given to the model, pixels; 0 keeps the checkpoint's own.", range=(0, 16777216)
    )
    max_pixels: int = _p(
        0,
        "Largest image area given to the model, pixels; 0: the checkpoint's own, less where the prompt would not fit, "
        "or for a large model on a CPU (the log says so).",
        range=(0, 16777216),
    )


@dataclass(frozen=True)
class LiftConfig(_Validated):
    """From boxes and depth to oriented 3D boxes."""

    min_depth: float = _p(0.1, "Nearer readings are no depth, metres.", range=(0.0, 100.0), live=True)
    max_depth: float = _p(10.0, "Farther readings are no depth, metres.", range=(0.1, 1000.0), live=True)
    min_points: int = _p(40, "Fewer points on the object than this and it has no 3D box.", range=(4, 100000), live=True)
    max_points: int = _p(4000, "Points of one object are thinned to about this many.", range=(100, 200000), live=True)
    plane_tolerance: float = _p(
        0.008, "Points this close to the support plane belong to it, metres.", range=(0.0005, 0.2), live=True
    )
    cluster_gap: float = _p(
        0.02,
        "Points farther apart than this are different objects, metres at 1 m range.",
        range=(0.001, 1.0),
        live=True,
    )


@dataclass(frozen=True)
class GripperConfig(_Validated):
    """The parallel-jaw gripper that grasp targets are made for (defaults: Robotiq 2F-85)."""

    max_width: float = _p(0.085, "Largest opening, metres.", range=(0.005, 1.0), live=True)
    finger_thickness: float = _p(0.014, "Finger extent along the closing axis, metres.", range=(0.001, 0.2), live=True)
    finger_width: float = _p(0.022, "Finger extent across the closing axis, metres.", range=(0.001, 0.2), live=True)
    finger_length: float = _p(
        0.045, "From fingertip to palm, metres, with the jaws fully open.", range=(0.005, 0.5), live=True
    )
    tip_advance: float = _p(
        0.013,
        "How far the fingertips move along the approach from open to closed, metres.",
        range=(0.0, 0.1),
        live=True,
    )
    palm_width: float = _p(0.075, "Palm extent across the closing axis, metres.", range=(0.005, 0.5), live=True)
    palm_length: float = _p(
        0.150, "Palm extent along the closing axis, metres, with what moves beside it.", range=(0.005, 0.6), live=True
    )
    wrist_width: float = _p(
        0.0,
        "Extent across the closing axis of what is mounted behind the palm, a wider flange or a camera, metres; 0: nothing.",
        range=(0.0, 0.5),
        live=True,
    )
    wrist_length: float = _p(0.09, "Its extent along the closing axis, metres.", range=(0.0, 0.6), live=True)
    wrist_offset: float = _p(
        0.0,
        "How far its middle is off the approach axis, metres along the gripper's +x; other than 0, the hand is turned by half "
        "where only the other side has room.",
        range=(-0.5, 0.5),
        live=True,
    )
    wrist_behind: float = _p(
        0.1, "From the fingertips to where it begins, metres, with the jaws fully open.", range=(0.005, 1.0), live=True
    )
    clearance: float = _p(
        0.004, "Free space kept between a finger and anything else, metres.", range=(0.0, 0.1), live=True
    )
    standoff: float = _p(
        0.10, "Distance from pre-grasp to grasp along the approach, metres.", range=(0.0, 1.0), live=True
    )
    max_tilt_deg: float = _p(
        90.0, "Largest angle between the approach and straight down, degrees.", range=(0.0, 90.0), live=True
    )
    friction: float = _p(0.5, "Friction coefficient of the contact test.", range=(0.05, 2.0), live=True)
    force: float = _p(40.0, "Force of one finger, N.", range=(0.1, 1000.0), live=True)
    density: float = _p(
        400.0,
        "Assumed density of what is grasped, kg/m3: its weight decides how near the middle it is held.",
        range=(1.0, 20000.0),
        live=True,
    )


@dataclass(frozen=True)
class AskConfig(_Validated):
    """Questions in words (~/ask)."""

    session_timeout: float = _p(
        600.0, "A session that nobody used for longer has ended, seconds.", range=(0.1, 86400.0), live=True
    )
    session_memory: float = _p(
        256.0,
        "Most memory of all sessions' pictures and words, MiB; beyond it the one used longest ago ends.",
        range=(0.1, 65536.0),
        live=True,
    )
    result_timeout: float = _p(
        60.0, "How long a result waits for whoever asked, seconds; read at start.", range=(1.0, 3600.0)
    )


@dataclass(frozen=True)
class FollowConfig(_Validated):
    """Instructions that an arm carries out (~/follow_instruction)."""

    step_timeout: float = _p(
        120.0,
        "Longest time for one motion of execute_step, seconds; it is cancelled then.",
        range=(0.1, 3600.0),
        live=True,
    )
    stop_timeout: float = _p(
        15.0, "How long to wait for the arm to say that it has stopped, seconds.", range=(0.1, 600.0), live=True
    )


@dataclass(frozen=True)
class InspectionConfig(_Validated):
    """What is looked at again and again, and what is kept of it (docs/inspection.md)."""

    file: str = _p("", "Inspection file: points, zones and alarms, YAML; empty: none. Read again when it changes.")
    directory: str = _p("", "Folder for evidence, journal, reports and the state of alarms; empty keeps nothing.")
    quota: int = _p(500, "Most evidence to keep, MB; the oldest goes first.", range=(1, 1000000))
    before: float = _p(5.0, "Pictures kept from before an event, seconds.", range=(0.0, 60.0))
    after: float = _p(5.0, "Pictures kept from after it has risen, seconds.", range=(0.0, 600.0))
    together: bool = _p(
        False,
        "Show the pictures of a watch's window to the model in one prompt, not one by one; for large models.",
    )
    paths: tuple[str, ...] = _p(
        (), "Phrases as found by the stream, whose trajectories go to ~/path/<id> and into reports."
    )


@dataclass(frozen=True)
class RemoteConfig(_Validated):
    """An OpenAI-compatible server that runs the model (vLLM, SGLang, TensorRT Edge-LLM, TensorRT-LLM)."""

    url: str = _p("", "Base of the server's API, e.g. http://127.0.0.1:8000/v1; engine auto uses it where it is set.")
    model: str = _p("", "Name of the model as the server lists it; empty takes the only one.")
    timeout: float = _p(30.0, "Longest silence of the server within an answer, seconds.", range=(0.1, 3600.0))
    connect_timeout: float = _p(2.0, "Longest time to connect, seconds.", range=(0.05, 60.0))
    start_timeout: float = _p(
        120.0,
        "Longest wait at the start for a server that says that it is loading (503), seconds.",
        range=(0.1, 3600.0),
    )
    retries: int = _p(2, "Further attempts where none can be answered twice: not connected, 429 or 503.", range=(0, 10))
    api_key_env: str = _p(
        "", "Name of the environment variable that holds the API key; the key itself is no parameter."
    )
    ca_file: str = _p("", "PEM file of the authority that signed the server's certificate; empty = the public ones.")
    image_transport: str = _p(
        "base64",
        "Images travel in the request (lossless PNG) or as files on a shared disk.",
        choices=("base64", "file"),
    )
    image_dir: str = _p("", "Directory for image_transport file, at the same path for the server.")
    self_test: bool = _p(True, "At start, ask for the box of a drawn rectangle and refuse a server that is off.")


@dataclass(frozen=True)
class Config(_Validated):
    """Every parameter of the perception node."""

    # -- the model ----------------------------------------------------------------------------------------------
    model: str = _p(
        "", "Checkpoint: a directory or a hub id such as Qwen/Qwen3-VL-2B-Instruct; empty = the embedded model."
    )
    engine: str = _p(
        "auto",
        "Runtime of the model; auto takes the best that works here and says why.",
        choices=("auto", "onnxruntime", "tensorrt", "torch", "transformers", "remote"),
    )
    device: str = _p("auto", "auto, cpu, cuda or cuda:N; what was chosen is logged and in /diagnostics.")
    dtype: str = _p("auto", "Precision of the weights.", choices=("auto", "float32", "bfloat16", "float16"))
    fused: bool = _p(
        True,
        "Engine torch on a GPU: compile fused kernels with Triton at load, for steps of one token (the log says how long it took); "
        "where that fails, which the log says, and with false, PyTorch's own.",
    )
    see_ahead: bool = _p(
        False,
        "Engine torch on a GPU: see the stream's next picture while the answer to this one is being said, where no newer one is expected "
        "before that ends; it takes the memory of a second picture. Off until it has been measured on a GPU.",
    )
    # -- what to look for -----------------------------------------------------------------------------------------
    targets: tuple[str, ...] = _p(
        ("cube", "ball", "cylinder", "mug", "bowl"),
        "Categories or descriptions to detect at start; change with ~/set_prompt.",
        camera=True,
    )
    task: str = _p(
        "detect",
        "What the stream asks for; read_text reads all text, whatever the targets, to ~/text.",
        choices=("detect", "point", "detect_3d", "read_text"),
        camera=True,
    )
    translate_to: str = _p(
        "",
        "Language that text which was read is translated into, BCP-47 (en, zh, pt-BR), at the cost of a second pass of the model; "
        "empty: none.",
        live=True,
        camera=True,
    )
    enabled: bool = _p(True, "Run inference on the stream; change with ~/enable.", camera=True)
    # -- inputs -----------------------------------------------------------------------------------------------------
    cameras: tuple[str, ...] = _p(
        (),
        "Names of the cameras, each with its own topics (front/image_raw, ~/front/detections_2d), services and, as "
        "camera.front.targets, parameters; empty = one camera without a name.",
    )
    image_transport: str = _p(
        "raw",
        "raw subscribes to image_raw, compressed to image_raw/compressed.",
        choices=("raw", "compressed"),
        camera=True,
    )
    use_depth: bool = _p(
        True,
        "Subscribe to depth/image_raw; without depth there are no measured 3D boxes or grasps.",
        camera=True,
    )
    image_qos: str = _p(
        "sensor_data",
        "QoS of the image topics.",
        choices=("sensor_data", "system_default", "default", "reliable", "best_effort"),
        camera=True,
    )
    rectification: str = _p(
        "auto",
        "rectified: camera_info's P holds for the images, without distortion; raw: its K and D do; auto: rectified "
        "where the image topic is named so (image_rect).",
        choices=("auto", "raw", "rectified"),
        camera=True,
    )
    max_image_pixels: int = _p(
        67108864, "Larger images are refused before they are decoded, pixels.", range=(1, 1073741824)
    )
    sync_slop: float = _p(
        0.02, "Largest stamp difference between an image and its depth, seconds.", range=(0.0, 1.0), camera=True
    )
    max_age: float = _p(
        0.5,
        "An image older than this when its turn comes is dropped and counted, seconds.",
        range=(0.01, 60.0),
        live=True,
        camera=True,
    )
    # -- outputs --------------------------------------------------------------------------------------------------
    target_frame: str = _p(
        "", "Frame of 3D results, by TF at capture; empty = the camera's optical frame.", camera=True
    )
    robot_frame: str = _p(
        "",
        "The robot's base (x forward, y left, z up; REP 103), by TF at capture: whose left a question in the robot's view means; "
        "empty = nobody knows.",
    )
    min_score: float = _p(
        0.0, "Detections with a lower score are not published.", range=(0.0, 1.0), live=True, camera=True
    )
    track: str = _p(
        "wanted",
        "Follow what was found from image to image: always; wanted: while somebody subscribes to ~/tracks_2d, "
        "~/tracks_3d or ~/track_states, publish_tf is set or ~/track was called lately; never.",
        choices=("wanted", "always", "never"),
        live=True,
        camera=True,
    )
    publish_tf: bool = _p(
        False, "Publish a TF frame object_<id> for each followed object that has a place.", live=True, camera=True
    )
    diagnostics_period: float = _p(1.0, "Time between two /diagnostics messages, seconds.", range=(0.1, 60.0))
    request_timeout: float = _p(
        30.0, "Deadline of a ~/detect, ~/measure or ~/ask that names none, seconds.", range=(0.1, 3600.0), live=True
    )
    request_timeout_max: float = _p(
        3600.0,
        "Longest deadline that a call may name, seconds; a longer one is refused.",
        range=(0.1, 86400.0),
        live=True,
    )
    request_queue: int = _p(
        64, "Calls that may wait at a time, for each camera; one more is refused.", range=(1, 10000), live=True
    )
    autostart: bool = _p(True, "Configure and activate at start; false waits for a lifecycle manager.")
    # -- groups ---------------------------------------------------------------------------------------------------
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    gripper: GripperConfig = field(default_factory=GripperConfig)
    ask: AskConfig = field(default_factory=AskConfig)
    follow: FollowConfig = field(default_factory=FollowConfig)
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    inspection: InspectionConfig = field(default_factory=InspectionConfig)

    def __post_init__(self):
        super().__post_init__()
        checked_language(self.translate_to, "parameter translate_to")
        for name in self.cameras:
            if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
                raise InvalidInput(
                    f"parameter cameras: {name!r} is no name of a camera; a letter and then letters, digits and _ make one"
                )
            if self.cameras.count(name) > 1:
                raise InvalidInput(
                    f"parameter cameras names {name!r} more than once; each camera has a name of its own"
                )


@dataclass(frozen=True)
class Parameter:
    """One leaf of Config under its ROS name (`gripper.max_width`). camera: each camera may have its own value."""

    name: str
    default: Any
    doc: str
    range: tuple[float, float] | None
    choices: tuple[str, ...] | None
    live: bool
    camera: bool


def parameters(config_type: type = Config, prefix: str = "") -> Iterator[Parameter]:
    """Every parameter, depth first, in declaration order."""
    hints = typing.get_type_hints(config_type)
    for f in dataclasses.fields(config_type):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from parameters(hints[f.name], f"{prefix}{f.name}.")
        else:
            yield Parameter(
                prefix + f.name,
                f.default,
                f.metadata["doc"],
                f.metadata["range"],
                f.metadata["choices"],
                f.metadata["live"],
                f.metadata["camera"],
            )


def camera_parameters(cameras: Sequence[str]) -> Iterator[Parameter]:
    """What each of the named cameras may have a value of its own of: `camera.front.max_age`. The default is None: the
    value of `max_age`."""
    for name in cameras:
        for p in parameters():
            if p.camera:
                doc = f"As {p.name}, for camera {name}; not set: the value of {p.name}."
                yield dataclasses.replace(p, name=f"camera.{name}.{p.name}", default=None, doc=doc)


def by_camera(config: Config, values: dict[str, Any]) -> dict[str, Config]:
    """The Config of each camera: `config` with the camera's own values in place, {"camera.front.max_age": 1.0}; of the
    one camera without a name, under "", it is `config` itself.

    Raises InvalidInput as from_flat, by the camera's own name of the parameter.
    """
    known = {p.name for p in camera_parameters(config.cameras)}
    for name in values:
        if name not in known:
            raise InvalidInput(
                f"unknown parameter {name!r}; known: {', '.join(sorted(known)) or 'none without cameras'}"
            )
    configs = {}
    for camera in config.cameras or ("",):
        prefix = f"camera.{camera}."
        own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        try:
            configs[camera] = from_flat(own, config) if camera else config
        except InvalidInput as error:
            raise InvalidInput(str(error).replace("parameter ", f"parameter {prefix}", 1)) from None
    return configs


def from_flat(values: dict[str, Any], base: Config | None = None) -> Config:
    """Config with the named values replaced, e.g. {"max_age": 1.0, "gripper.max_width": 0.08}.

    Raises InvalidInput for an unknown name, a wrong type, or a value outside its range or choices.
    """
    config = base or Config()
    known = {p.name for p in parameters()}
    for name, value in values.items():
        if name not in known:
            raise InvalidInput(f"unknown parameter {name!r}; known: {', '.join(sorted(known))}")
        group, _, leaf = name.rpartition(".")
        try:
            if group:
                value = dataclasses.replace(getattr(config, group), **{leaf: value})
            config = dataclasses.replace(config, **{group or leaf: value})
        except InvalidInput as error:
            raise InvalidInput(
                f"{group + '.' if group else ''}{error}"
                if not group
                else str(error).replace(f"parameter {leaf}", f"parameter {name}", 1)
            ) from None
    return config


def _type_name(kind: Any) -> str:
    return (
        "a list of strings"
        if typing.get_origin(kind) is tuple
        else {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"}[kind.__name__]
    )


def _yaml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{v}"' for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _allowed(p: Parameter) -> str:
    return ", ".join(p.choices) if p.choices else f"{p.range[0]:g} … {p.range[1]:g}" if p.range else ""


def to_yaml() -> str:
    """The text of config/perception.yaml: every parameter with its default, doc and allowed values."""
    lines = [
        "# Written by `python -m qwen3vl_ros.config`: every parameter with its default.",
        "/**:",
        "  ros__parameters:",
    ]
    group = ""
    for p in parameters():
        head, _, leaf = p.name.rpartition(".")
        if head != group:
            lines.append(f"    {head}:")
            group = head
        pad = "      " if head else "    "
        allowed = _allowed(p)
        lines += [f"{pad}# {p.doc}" + (f" [{allowed}]" if allowed else ""), f"{pad}{leaf}: {_yaml_value(p.default)}"]
    return "\n".join(lines) + "\n"


def to_markdown() -> str:
    """README's parameter table; `live` parameters may change while the node is active, and each camera may have its own
    value of those marked `per camera`."""
    rows = ["| parameter | default | allowed | live | per camera | meaning |", "|---|---|---|---|---|---|"]
    rows += [
        f"| `{p.name}` | `{_yaml_value(p.default)}` | {_allowed(p)} | {'yes' if p.live else ''} | "
        f"{'yes' if p.camera else ''} | {p.doc} |"
        for p in parameters()
    ]
    return "\n".join(rows) + "\n"


def write_copies(root: Path) -> None:
    """Bring config/perception.yaml and the table between README's parameter marks up to date."""
    (root / "config" / "perception.yaml").write_text(to_yaml())
    readme = root / "README.md"
    head, rest = readme.read_text().split("<!-- parameters -->\n", 1)
    tail = rest.split("<!-- /parameters -->", 1)[1]
    readme.write_text(f"{head}<!-- parameters -->\n{to_markdown()}<!-- /parameters -->{tail}")


if __name__ == "__main__":
    write_copies(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
