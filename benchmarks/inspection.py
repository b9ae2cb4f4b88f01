"""How well are dials read, and do alarms behave? Against the truth that the pictures were painted from.

Views: sim/dials.py, seeds that nothing was tuned on: tilt up to 45 degrees, uneven light, noise, blur; 15 % under glare, 8 % covered; faces that the
embedded model knows, faces whose scale it does not (their points say `check: geometry`), partial arcs and uneven divisions. The region is the
dial's box, off by up to 3 %; the points give the sweep, as a file would. read: GOOD, of all; read_clear: of those without glare and cover;
errors in % of the range, of what was read GOOD; wrong_good: off by more than 5 %, of all; model_error_median: the model's own value where its
unit fits, of the scales that it knows. Then an hour of one dial, a look every 5 s, time compressed: excursions long and short, a needle that
shakes at the limit, glare, single wrong looks. The last line is JSON. Pictures are painted before anything is timed.

    make bench BENCH=inspection [ARGS="--views 200"]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time

import cv2
import numpy as np

from qwen3vl_ros.config import from_flat
from qwen3vl_ros.inspection import dial, units
from qwen3vl_ros.inspection.alarms import Alarm, AlarmRule, State
from qwen3vl_ros.inspection.inspector import Inspector
from qwen3vl_ros.inspection.points import Point
from qwen3vl_ros.inspection.readings import Quality, Readings, Reason, Seen
from qwen3vl_ros.inspection.recorder import Recorder
from qwen3vl_ros.loading import load_tested_engine
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.sim.dials import DialView, sample_dial
from qwen3vl_ros.types import Frame

FIRST_SEED = 9_000_000
LIMIT, DEADBAND, ON_DELAY_S, OFF_DELAY_S = 0.7, 0.03, 20.0, 20.0  # shares of the range
LOOK_S, HOUR_S = 5.0, 3600.0
TRUTH_S = 0.05  # the needle shakes with a period of 3 s: by half seconds, truth itself would miss that it comes back
_perception: Perception | None = None


def prepare() -> None:
    global _perception
    _perception = Perception(load_tested_engine(from_flat({"engine": "auto"})))


def paint(seed: int) -> tuple[DialView, bytes]:
    """The view without its pixels, and these losslessly small."""
    view = sample_dial(seed)
    return view, cv2.imencode(".png", view.rgb)[1].tobytes()


def read(job: tuple[int, DialView, bytes]) -> tuple[float, float, str, str, float]:
    """(error, model's error, quality, reason, seconds); errors in shares of the range, NaN where there is none."""
    seed, view, png = job
    rgb = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    box = np.array(view.box_xyxy_px)
    off = np.random.default_rng(seed).uniform(-0.03, 0.03, 4) * (box[2] - box[0])
    roi = np.clip(box + off, 0, (*view.rgb.shape[1::-1],) * 2)
    point = Point(
        "dial",
        "gauge",
        roi_xyxy_px=tuple(map(int, roi)),
        unit=units.checked(view.unit),
        scale=view.scale,
        sweep_deg=view.sweep_deg,
        check="model" if view.known else "geometry",
    )
    started = time.perf_counter()
    reading = Inspector([point], Recorder(None, 0)).look(_perception, "dial", Frame(1, "camera", rgb)).reading
    seconds = time.perf_counter() - started
    error = abs(reading.value - view.value) / view.span if reading.quality is Quality.GOOD else math.nan
    own = abs(reading.model_value - view.value) / view.span if view.known else math.nan
    return error, own, reading.quality.name, reading.reason.name, seconds


# -- an hour ---------------------------------------------------------------------------------------------------------


def process(t_s: float) -> float:
    """Share of the range: long excursions, one a little over its delay, short ones, a shaking at the limit and one above it, calm."""
    calm = 0.45 + 0.06 * math.sin(t_s / 47) + 0.03 * math.sin(t_s / 11)
    for begin, end, top in ((300, 420, 0.85), (900, 960, 0.78), (1500, 1900, 0.92), (3000, 3090, 0.8)):
        ramp = min(t_s - begin, end - t_s) / 15
        if ramp > 0:
            return calm + (top - calm) * min(1.0, ramp)
    if any(begin <= t_s < begin + 8 for begin in (650, 1200, 2950)):
        return 0.82  # shorter than its delay
    if 2200 <= t_s < 2500:
        return LIMIT - 0.012 + 0.02 * math.sin(t_s * 2.1)  # across the limit and back through the deadband, every 3 s
    if 2650 <= t_s < 2800:
        return LIMIT + 0.03 + 0.02 * math.sin(t_s * 2.1)  # as much, and never below the limit
    return calm


def look_of_hour(t_s: float) -> tuple[float, float, bool]:
    """(measured share, sigma, whether it could be read): the needle painted and measured."""
    view = sample_dial(FIRST_SEED + 17, fraction=process(t_s), clear=True, uncommon=0.0)
    rgb = view.rgb
    if 1600 <= t_s < 1660 or 3030 <= t_s < 3050:  # the sun in the glass
        x0, y0, x1, y1 = map(int, view.box_xyxy_px)
        rgb = rgb.copy()
        cv2.circle(rgb, ((x0 + x1) // 2, (y0 + y1) // 2), (x1 - x0) // 3, (255, 255, 255), -1)
    try:
        needle = dial.measure(rgb, view.box_xyxy_px, view.sweep_deg)
    except dial.Unreadable:
        return math.nan, math.nan, False
    return needle.fraction, needle.sigma, True


def spans(rising: list[float], falling: list[float]) -> list[tuple[float, float]]:
    return [(r, min((f for f in falling if f > r), default=HOUR_S)) for r in rising]


def hour(looks: list[tuple[float, float, bool]]) -> dict[str, float]:
    """Events of the looks against those of the process itself."""
    rule = AlarmRule(
        "high", above=LIMIT, deadband=DEADBAND, on_delay_s=ON_DELAY_S, off_delay_s=OFF_DELAY_S, severity=800
    )
    point = Point(
        "dial", "gauge", unit="1", scale=((0.0, 0.0), (1.0, 1.0)), check="geometry", max_rate=0.08, alarms=(rule,)
    )
    readings, alarm, rises, falls = Readings(point), Alarm(rule), [], []
    for k, (share, sigma, readable) in enumerate(looks):
        t_s = k * LOOK_S
        if k % 97 == 50:
            share = 0.98  # a wrong look
        trouble = Reason.NONE if readable else Reason.UNREADABLE
        reading = readings.judge(int(t_s * 1e9), "", Seen(share, sigma, trouble=trouble))
        value = reading.evidence_for(rule)
        for change in alarm.observe(int(t_s * 1e9), value) if value is not None else ():
            if (change.before, change.after) == (State.PENDING, State.ACTIVE):
                rises.append(t_s)
            elif (change.before, change.after) == (State.CLEARING, State.NORMAL):
                falls.append(t_s)
    exact, true_rises, true_falls = Alarm(rule), [], []
    for k in range(int(HOUR_S / TRUTH_S)):
        t_s = k * TRUTH_S
        for change in exact.observe(int(t_s * 1e9), process(t_s)):
            if (change.before, change.after) == (State.PENDING, State.ACTIVE):
                true_rises.append(t_s)
            elif (change.before, change.after) == (State.CLEARING, State.NORMAL):
                true_falls.append(t_s)
    slack = 4 * LOOK_S  # a look, and three that have to agree after a jump
    truth, found = spans(true_rises, true_falls), spans(rises, falls)
    of = [[f for f in found if f[0] <= t[1] + slack and t[0] - slack <= f[1]] for t in truth]
    delays = [fs[0][0] - t[0] for t, fs in zip(truth, of) if fs]
    print(
        f"an hour: {len(truth)} true alarms, {len(found)} raised, late by {', '.join(f'{d:.1f}' for d in delays)} s beside truth's own delay"
    )
    return {
        "missed": sum(not fs for fs in of),
        "false_alarms": sum(all(f not in fs for fs in of) for f in found),
        "chatter": sum(max(0, len(fs) - 1) for fs in of),
        "latest_s": max(delays, default=math.nan),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.views)
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, prepare) as pool:
        painted = pool.map(paint, seeds, chunksize=8)
        looks = pool.map(look_of_hour, [k * LOOK_S for k in range(int(HOUR_S / LOOK_S))], chunksize=8)
        started = time.perf_counter()
        rows = pool.map(read, [(seed, view, png) for seed, (view, png) in zip(seeds, painted)], chunksize=8)
        elapsed_s = time.perf_counter() - started
    views = [view for view, _ in painted]
    clear = np.array([not (v.glare or v.covered) for v in views])
    known = np.array([v.known for v in views])
    error = 100 * np.array([row[0] for row in rows])
    own = 100 * np.array([row[1] for row in rows])
    good = np.isfinite(error)
    print(
        f"{len(views)} views in {elapsed_s:.0f} s on {arguments.jobs} processes, {np.median([r[4] for r in rows]) * 1000:.0f} ms a look"
    )
    print(f"{'':22}{'views':>7}{'GOOD':>7}{'median %':>10}{'p95 %':>8}{'> 5 %':>7}")
    for name, of in (
        ("all", clear | True),
        ("clear", clear),
        ("glare or cover", ~clear),
        ("clear, known scale", clear & known),
        ("clear, other scale", clear & ~known),
    ):
        e = error[of & good]
        if of.any() and len(e):
            print(
                f"{name:22}{of.sum():7}{good[of].mean():7.3f}{np.median(e):10.2f}{np.percentile(e, 95):8.2f}{(e > 5).sum():7}"
            )
    print(
        f"the model's own value: median {np.nanmedian(own):.2f} %, 95 % {np.nanpercentile(own, 95):.2f} %, over 5 % in {np.nanmean(own[np.isfinite(own)] > 5):.2f}"
    )
    reasons = [row[3] for row in rows if row[2] != "GOOD"]
    print("not GOOD: " + ", ".join(f"{r} {reasons.count(r)}" for r in sorted(set(reasons))))
    timeline = hour(looks)
    print(
        json.dumps(
            {
                "read": round(float(good.mean()), 4),
                "read_clear": round(float(good[clear].mean()), 4),
                "error_median": round(float(np.median(error[good])), 3),
                "error_p95": round(float(np.percentile(error[good], 95)), 3),
                "wrong_good": round(float((error[good] > 5).sum() / len(views)), 5),
                "model_error_median": round(float(np.nanmedian(own)), 3),
                **{name: timeline[name] for name in ("missed", "false_alarms", "chatter")},
            }
        )
    )


if __name__ == "__main__":
    main()
