"""What do drafts and kept prefixes save on a camera stream? Forward passes and wall time per answer, on against off.

The simulated camera looks at tables with five objects, a new table every ten seconds: at rest, one object moving, the
camera moving. Every picture carries sensor noise, because no camera sends the same picture twice. Each picture goes to two
engines in turn, drafts on and drafts off, who goes first alternating; the first picture, which has no draft, counts. Token
ids must be the same, or `lossless` is false and, in float32, the exit status 1: in bfloat16 a pass over several tokens rounds
otherwise than a pass over one, and `same_answers` says how often that decided between two tokens nearly as likely. `passes_ratio` and `time_ratio` are sums off over sums
on; time is image to text, the vision tower included, and `language_ratio` leaves that out. Then what is kept of a prompt:
with the words before the image, and for a second question about the same image. The last line is JSON.

    make bench BENCH=decode_stream [ARGS="--frames 100 --rate-hz 5 --noise 2 --engine onnxruntime"]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

from qwen3vl_ros.config import Config, from_flat
from qwen3vl_ros.engine import Engine, Limits, Prompt, load_engine
from qwen3vl_ros.questions import Detect
from qwen3vl_ros.sim.stream import MOTIONS, SimStream
from qwen3vl_ros.types import Generation

SIZE = 640, 480
OBJECTS, SCENE_S, FIRST_SEED = 5, 10.0, 500
PROMPT = Detect(("cube", "ball", "cylinder", "mug", "bowl")).prompt()
LIMITS = Limits.of(Config().generation)
QUESTIONS = PROMPT, Detect(("red cube",)).prompt()


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """As the camera sends it, and how far the objects' boxes went since the picture before, pixels (median of corners)."""

    rgb: np.ndarray
    moved_px: float


def pictures(motion: str, count: int, rate_hz: float, noise: float) -> list[Picture]:
    rng, taken, before = np.random.default_rng(0), [], {}
    with SimStream(
        FIRST_SEED, motion, SCENE_S, OBJECTS, rate_hz, width=SIZE[0], height=SIZE[1], quality="fast"
    ) as camera:
        for _, view, scene in camera.frames(count / rate_hz):
            boxes = {(scene.seed, t.index): np.array(t.box_xyxy_px) for t in view.truths}
            steps = [np.abs(boxes[k] - before[k]).max() for k in boxes.keys() & before.keys()]
            moving = [s for s in steps if s > 0]
            rgb = np.clip(view.rgb + rng.normal(0, noise, view.rgb.shape), 0, 255).astype(np.uint8)
            taken.append(Picture(rgb, float(np.median(moving)) if moving else 0.0))
            before = boxes
    return taken


@dataclasses.dataclass
class Side:
    """The answers of one engine, in order, and the milliseconds of each: wall, and this process' processor time."""

    engine: Engine
    stream: str
    answers: list[Generation] = dataclasses.field(default_factory=list)
    wall_ms: list[float] = dataclasses.field(default_factory=list)
    cpu_ms: list[float] = dataclasses.field(default_factory=list)

    def answer(self, rgb: np.ndarray) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.answers.append(self.engine.generate(Prompt(PROMPT, [rgb], stream=self.stream), LIMITS))
        self.cpu_ms.append(1e3 * (time.process_time() - cpu))
        self.wall_ms.append(1e3 * (time.perf_counter() - wall))

    @property
    def passes(self) -> int:
        return sum(g.forward_passes for g in self.answers)

    @property
    def language_s(self) -> float:
        """Decoding alone; the first pass has the image in it on both sides."""
        return sum(g.decode_s for g in self.answers)


def measure_stream(engines: tuple[Engine, Engine], motion: str, taken: list[Picture]) -> dict:
    on, off = Side(engines[0], motion), Side(engines[1], "")
    for number, picture in enumerate(taken):
        for side in (on, off) if number % 2 else (off, on):
            side.answer(picture.rgb)
    moved = [p.moved_px for p in taken if p.moved_px]
    return {
        "passes_ratio": round(off.passes / on.passes, 2),
        "time_ratio": round(sum(off.wall_ms) / sum(on.wall_ms), 2),
        "cpu_time_ratio": round(sum(off.cpu_ms) / sum(on.cpu_ms), 2),
        "decode_time_ratio": round(off.language_s / on.language_s, 2),
        "lossless": all(same := [a.token_ids == b.token_ids for a, b in zip(on.answers, off.answers)]),
        "same_answers": round(float(np.mean(same)), 3),
        "frames": len(taken),
        "tokens": round(float(np.mean([g.generated_tokens for g in off.answers])), 1),
        "passes_on": round(on.passes / len(taken), 2),
        "passes_off": round(off.passes / len(taken), 2),
        "drafted": round(float(np.mean([g.drafted_tokens for g in on.answers])), 1),
        "accepted": round(float(np.mean([g.accepted_tokens for g in on.answers])), 1),
        "wall_ms_on": round(float(np.median(on.wall_ms)), 1),
        "wall_ms_off": round(float(np.median(off.wall_ms)), 1),
        "cpu_ms_on": round(float(np.median(on.cpu_ms)), 1),
        "cpu_ms_off": round(float(np.median(off.cpu_ms)), 1),
        "changed_answers": sum(a.text != b.text for a, b in zip(off.answers, off.answers[1:])),
        "moved_px_p50": round(float(np.median(moved)), 1) if moved else 0.0,
    }


def measure_prefix(engine: Engine, taken: list[Picture]) -> dict:
    """Tokens of the prompt that a pass reads, and milliseconds until it has (the vision tower included): for a new picture,
    image first and words first, and for another question about the same picture. One token is answered."""
    limits, found = dataclasses.replace(LIMITS, max_new_tokens=1), {}
    cases = ("image_first", False, False), ("text_first", True, False), ("second_question", False, True)
    for name, text_first, again in cases:
        read, ms = [], []
        for picture in taken:
            said = engine.generate(Prompt(QUESTIONS[0], [picture.rgb], text_first=text_first), limits)
            if again:
                said = engine.generate(Prompt(QUESTIONS[1], [picture.rgb], text_first=text_first), limits)
            read.append(said.prompt_tokens - said.reused_tokens)
            ms.append(1e3 * said.prefill_s)
        found[name] = {
            "prompt_tokens": said.prompt_tokens,
            "tokens_read": int(np.median(read)),
            "prefill_ms": round(float(np.median(ms)), 2),
        }
    return found


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} logical cores{load}; "
        f"Python {platform.python_version()}, NumPy {np.__version__}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=100, help="of each stream")
    parser.add_argument("--rate-hz", type=float, default=5.0, help="answers a second: how far things move in between")
    parser.add_argument("--noise", type=float, default=2.0, help="standard deviation of the sensor noise, grey levels")
    parser.add_argument("--engine", default="onnxruntime", choices=("onnxruntime", "torch", "transformers"))
    options = parser.parse_args()
    config = from_flat({"engine": options.engine})
    engines = load_engine(config), load_engine(config)
    print(
        f"hardware: {hardware()}\nengine: {engines[0].info.runtime} on {engines[0].info.device}, {engines[0].info.dtype}, "
        f"{engines[0].info.parameters / 1e6:.1f} million weights; {engines[0].info.why}"
    )
    print(
        f"input: {options.frames} pictures of {SIZE[0]}x{SIZE[1]} at {options.rate_hz:g} Hz in each stream, "
        f"{OBJECTS} objects, a new scene every {SCENE_S:g} s, noise of {options.noise:g} grey levels\n"
    )
    columns = (
        "tokens",
        "changed_answers",
        "moved_px_p50",
        "passes_off",
        "passes_on",
        "passes_ratio",
        "wall_ms_off",
        "wall_ms_on",
        "time_ratio",
        "cpu_time_ratio",
        "decode_time_ratio",
        "drafted",
        "accepted",
        "lossless",
    )
    print(" " * 12 + "".join(f"{part:>10}" for part in (c.rpartition("_")[0] for c in columns)))
    print(" " * 12 + "".join(f"{part:>10}" for part in (c.rpartition("_")[2] for c in columns)))
    results = {}
    for motion in MOTIONS:
        taken = pictures(motion, options.frames, options.rate_hz, options.noise)
        r = results[motion] = measure_stream(engines, motion, taken)
        print(f"{motion:12}" + "".join(f"{str(r[column]):>10}" for column in columns), flush=True)
    results["prefix"] = measure_prefix(engines[0], taken[:20])
    print(f"\n{'what is read of a prompt':28}{'tokens':>8}{'read':>6}{'ms':>8}")
    for name, r in results["prefix"].items():
        print(f"{name:28}{r['prompt_tokens']:8}{r['tokens_read']:6}{r['prefill_ms']:8.1f}")
    print(
        "tokens, passes, drafted and accepted: means of an answer; wall ms: medians; ratios: sums off over sums on; "
        "changed: answers\nunlike the one before; moved: median of the boxes that moved, from picture to picture\n"
    )
    print(
        json.dumps(
            {
                **results,
                "engine": options.engine,
                "rate_hz": options.rate_hz,
                "noise": options.noise,
                "hardware": hardware(),
            }
        )
    )
    exact = engines[0].info.dtype == "float32"
    return 0 if not exact or all(results[motion]["lossless"] for motion in MOTIONS) else 1


if __name__ == "__main__":
    sys.exit(main())
