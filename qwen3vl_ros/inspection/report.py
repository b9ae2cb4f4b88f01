"""A dated report from the journal: report.md for people, readings.csv for tables, report.json for programs.

Times are ISO 8601, UTC. Gaps in the looks are stated, not bridged; pictures are linked where evidence kept them. Also
`qwen3vl report`. Knows nothing of ROS and of how readings came about.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Collection, Sequence
from urllib.parse import unquote, urlparse

from qwen3vl_ros.inspection.recorder import journal, utc
from qwen3vl_ros.types import InvalidInput, quoted

_SECOND = 10**9
_LEAST_GAP_S = 5.0
COLUMNS = ("stamp", "point", "camera", "quantity", "value", "uncertainty", "unit", "zone", "text", "quality", "reason")
COLUMNS += ("message", "measured", "model_value", "unit_seen", "looks", "evidence_uri")


def write_report(
    directory: Path,
    start_ns: int = 0,
    end_ns: int | None = None,
    points: Collection[str] = (),
    into: Path | None = None,
) -> Path:
    """The folder that holds the three files, new: reports/TIME under `directory`, or `into`.

    Raises InvalidInput where there is nothing to report, the span is none, or the disk takes nothing.
    """
    directory, end_ns = Path(directory), 2**62 if end_ns is None else end_ns
    if start_ns > end_ns:
        raise InvalidInput(f"the report's start {utc(start_ns)} is after its end {utc(end_ns)}; swap them")
    if not (directory / "journal").is_dir():
        raise InvalidInput(
            f"{directory} has no journal; give the node's parameter inspection.directory, once it has looked"
        )
    entries = list(journal(directory, start_ns, end_ns))
    readings = [e for e in entries if e["kind"] == "reading" and (not points or e.get("point") in points)]
    events = [e for e in entries if e["kind"] == "event" and (not points or e.get("point") in points)]
    paths = [e for e in entries if e["kind"] == "path"]
    if not readings and not events and not paths:
        of = f" of {', '.join(points)}" if points else ""
        raise InvalidInput(f"the journal of {directory} has nothing{of} between these times")
    stamps = [e["stamp_ns"] for e in readings + events + paths]
    report = {
        "start": utc(start_ns or min(stamps)),
        "end": utc(end_ns if end_ns < 2**62 else max(stamps)),
        "written": utc(int(datetime.now(timezone.utc).timestamp() * 1000) * 10**6),
        "points": {
            name: _summary([r for r in readings if r["point"] == name])
            for name in sorted({r["point"] for r in readings})
        },
        "events": events,
        "paths": _paths(paths),
    }
    try:
        folder = into or _new_folder(directory / "reports")
        folder.mkdir(parents=True, exist_ok=True)
        _write_csv(folder / "readings.csv", readings)
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / "report.md").write_text(_markdown(report, folder), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"the report cannot be written to {into or directory}: {error.strerror}; free the disk, or name another folder"
        ) from None
    return folder


def _new_folder(root: Path) -> Path:
    name = f"{datetime.now(timezone.utc):%Y-%m-%dT%H%M%SZ}"
    number = 0
    while (folder := root / (f"{name}_{number}" if number else name)).exists():
        number += 1
    return folder


def _summary(readings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one point. gaps: where no look came for much longer than usual."""
    stamps = [r["stamp_ns"] for r in readings]
    steps = [(b - a) / _SECOND for a, b in zip(stamps, stamps[1:])]
    usual = statistics.median(steps) if steps else 0.0
    gaps = [
        {"from": readings[i]["stamp"], "to": readings[i + 1]["stamp"], "seconds": round(step, 3)}
        for i, step in enumerate(steps)
        if step > max(_LEAST_GAP_S, 4 * usual) or step < 0
    ]
    values = [r["value"] for r in readings if isinstance(r.get("value"), (int, float)) and r["quality"] == "GOOD"]
    qualities = {q: sum(r["quality"] == q for r in readings) for q in ("GOOD", "UNCERTAIN", "BAD")}
    reasons = {
        q: n
        for q in sorted({r["reason"] for r in readings} - {"NONE"})
        if (n := sum(r["reason"] == q for r in readings))
    }
    last = readings[-1]
    return {
        "quantity": last["quantity"],
        "unit": last["unit"],
        "looks": len(readings),
        **qualities,
        "reasons": reasons,
        "minimum": min(values, default=None),
        "maximum": max(values, default=None),
        "mean": round(statistics.fmean(values), 6) if values else None,
        "last": {k: last[k] for k in ("stamp", "value", "uncertainty", "zone", "text", "quality", "reason")},
        "gaps": gaps,
        "evidence": sorted({r["evidence_uri"] for r in readings if r.get("evidence_uri")}),
    }


def _paths(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A trajectory for each object: when it was where."""
    found: dict[str, dict[str, Any]] = {}
    for e in entries:
        path = found.setdefault(e["id"], {"id": e["id"], "label": e["label"], "frame_id": e["frame_id"], "poses": []})
        path["poses"].append({"stamp": e["stamp"], "xyz_m": e["xyz_m"]})
    for path in found.values():
        xyz = [p["xyz_m"] for p in path["poses"]]
        path["length_m"] = round(sum(math.dist(a, b) for a, b in zip(xyz, xyz[1:])), 3)
    return list(found.values())


def _write_csv(path: Path, readings: Sequence[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows([_cell(r.get(column)) for column in COLUMNS] for r in readings)


def _cell(value: Any) -> Any:
    """Words from pictures are data: a spreadsheet must not take them for a formula."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def _markdown(report: dict[str, Any], folder: Path) -> str:
    lines = [f"# Inspection {report['start']} to {report['end']}", ""]
    if report["points"]:
        lines += [
            "| point | quantity | last | quality | min | mean | max | looks | good | uncertain | bad | gaps |",
            "|---" * 12 + "|",
        ]
        for name, p in report["points"].items():
            last, unit = p["last"], "" if p["unit"] == "1" else f" {p['unit']}"
            value = last["text"] or _number(last["value"])
            quality = last["quality"] + (f" ({last['reason']})" if last["reason"] != "NONE" else "")
            numbers = [_number(p[k]) for k in ("minimum", "mean", "maximum")]
            counts = [p["looks"], p["GOOD"], p["UNCERTAIN"], p["BAD"], len(p["gaps"])]
            cells = [name, p["quantity"], f"{value}{unit if not last['text'] else ''}", quality, *numbers, *counts]
            lines.append("| " + " | ".join(_text(c) for c in cells) + " |")
        for name, p in report["points"].items():
            lines += ["", f"## {name}", ""]
            lines += [f"- no look from {g['from']} to {g['to']} ({g['seconds']:g} s)" for g in p["gaps"]] or [
                "- no gaps"
            ]
            lines += [f"- {reason}: {count} looks" for reason, count in p["reasons"].items()]
            lines += [f"- not believed, kept: {_links(uri, folder)}" for uri in p["evidence"]]
    lines += ["", "## Events", ""]
    for e in report["events"]:
        shown = _links(e["evidence_uri"], folder) if e.get("evidence_uri") else ""
        lines.append(
            f"- {e['stamp']} **{_text(e['name'])}** {e['before']} → {e['after']}: {_text(e['message'])} {shown}".rstrip()
        )
    if not report["events"]:
        lines.append("none")
    if report["paths"]:
        lines += ["", "## Paths", "", "| object | from | to | length, m |", "|---|---|---|---|"]
        for path in report["paths"]:
            ends = path["poses"][0]["stamp"], path["poses"][-1]["stamp"]
            lines.append(f"| {_text(path['label'])} {path['id']} | {ends[0]} | {ends[1]} | {path['length_m']:g} |")
    return "\n".join(lines) + "\n"


def _links(uri: str, folder: Path) -> str:
    """The pictures beside an event.json, relative to the report."""
    place = Path(unquote(urlparse(uri).path)).parent
    pictures = sorted(place.glob("*.jpg"), key=lambda p: p.name.rpartition("_")[2])
    if not pictures:
        return "(its pictures are gone: the quota took them)"
    return " ".join(
        f"[{p.name.partition('_')[0]}]({Path(os.path.relpath(p, folder)).as_posix().replace(' ', '%20')})"
        for p in pictures[:8]
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "–"


def _text(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("[", "\\[")


# -- command line --------------------------------------------------------------------------------------------------------


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds `report` to the parser of `qwen3vl`."""
    command = commands.add_parser(
        "report",
        help="readings, events and paths of an inspection as Markdown, CSV and JSON",
        description="Reads the journal that the node keeps under its parameter inspection.directory.",
    )
    command.add_argument("directory", type=Path, metavar="DIRECTORY")
    command.add_argument("--start", default="", help="ISO 8601, e.g. 2026-11-25T06:00:00Z; default: the first reading")
    command.add_argument("--end", default="", help="ISO 8601; default: the last reading")
    command.add_argument("--points", nargs="+", default=[], metavar="POINT", help="only these")
    command.add_argument("--output", type=Path, help="folder to write to; default: a new one under DIRECTORY/reports")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    start_ns, end_ns = _stamp(arguments.start, "--start"), _stamp(arguments.end, "--end")
    if (
        arguments.output is not None
        and arguments.output.exists()
        and any(arguments.output.iterdir() if arguments.output.is_dir() else [1])
    ):
        raise InvalidInput(f"--output {arguments.output} is there already; name a new folder, nothing is overwritten")
    folder = write_report(arguments.directory, start_ns or 0, end_ns, arguments.points, arguments.output)
    for path in sorted(folder.iterdir()):
        print(path)
    return 0


def _stamp(text: str, name: str) -> int | None:
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InvalidInput(f"{name} {quoted(text)} must be ISO 8601, e.g. 2026-11-25T06:00:00Z") from None
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return round(when.timestamp() * 1000) * 10**6
