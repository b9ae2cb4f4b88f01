"""What inspection keeps: evidence that is never overwritten, alarms that survive a restart, reports, and disks that refuse."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from small_disk import disk, fill
from test_cases import DIAL, Saying, face, frame, gauge

from qwen3vl_ros.cli import main
from qwen3vl_ros.inspection import recorder as recording
from qwen3vl_ros.inspection.alarms import AlarmRule
from qwen3vl_ros.inspection.inspector import Inspector
from qwen3vl_ros.inspection.points import Point
from qwen3vl_ros.inspection.recorder import Kept, Recorder, encoded, utc
from qwen3vl_ros.pipeline import Perception
from qwen3vl_ros.types import InvalidInput

SECOND = 10**9
BASE_S = 1_700_000_000
LATCHED = Point(
    **{**vars(DIAL), "alarms": (AlarmRule("high", above=1.6, deadband=0.05, on_delay_s=1, off_delay_s=1, latch=True),)}
)


def run(directory, fractions, begin_s=BASE_S, quota=10**8):
    inspector, perception = Inspector([LATCHED], Recorder(directory, quota), 3.0, 2.0), Perception(Saying(gauge(1.65)))
    outcomes = []
    for t, fraction in enumerate(fractions):
        at = frame(face(fraction), begin_s + t)
        inspector.picture("", at)
        outcomes.append(inspector.look(perception, "boiler", at))
    return inspector, outcomes


LIFE = [0.6, 0.6, 0.72, 0.72, 0.72, 0.72, 0.72, 0.6, 0.6, 0.6]


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inspection")
    return directory, *run(directory, LIFE)


def test_evidence_has_pictures_of_before_onset_confirmation_after_and_end(lived):
    directory, _, outcomes = lived
    events = [e for o in outcomes for e in o.events]
    assert [e.after.value for e in events] == ["pending", "active", "clearing", "normal"]
    uri = events[-1].evidence_uri
    folder = Path(urlparse(uri).path).parent
    labels = {p.name.partition("_")[0] for p in folder.glob("*.jpg")}
    assert labels == {"before", "onset", "onset-crop", "confirmed", "confirmed-crop", "after", "end", "end-crop"}
    told = json.loads((folder / "event.json").read_text())
    assert told["severity"] == 500 and told["limit"] == 1.6 and told["reading"]["quality"] == "GOOD"
    assert json.loads(told["asked"][0]["answer"]) == {"value": 1.65, "unit": "bar"}
    for picture in told["pictures"]:
        assert hashlib.sha256((folder / picture["file"]).read_bytes()).hexdigest() == picture["sha256"]


def test_evidence_can_be_opened_as_a_bag(lived):
    rosbags = pytest.importorskip("rosbags.highlevel")
    from rosbags.typesys import Stores, get_typestore

    directory, _, _ = lived
    (mcap,) = directory.rglob("evidence.mcap")
    with rosbags.AnyReader([mcap], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        read = [(stamp, reader.deserialize(raw, c.msgtype)) for c, stamp, raw in reader.messages()]
    assert len(read) >= 5 and all(m.format == "jpeg" and m.header.stamp.sec == stamp // SECOND for stamp, m in read)


def test_a_latched_alarm_survives_a_restart_and_goes_by_reset_alone(lived):
    directory, before, _ = lived
    after = Inspector([LATCHED], Recorder(directory, 10**8))
    (active,) = after.active(BASE_S * SECOND)
    assert (
        active.latched
        and active.id == before.active(BASE_S * SECOND)[0].id
        and active.peak == pytest.approx(1.8, abs=0.05)
    )
    after.command("boiler/high", "acknowledge", (BASE_S + 20) * SECOND, operator="anna")
    assert after.active(BASE_S * SECOND)[0].acknowledged
    after.command("boiler/high", "reset", (BASE_S + 21) * SECOND)
    assert not Inspector([LATCHED], Recorder(directory, 10**8)).active(BASE_S * SECOND)


@pytest.mark.parametrize("saved", ["", "{", "[1]", '{"alarms": {"boiler/high": {"state": {}}}}', '{"alarms": 3}'])
def test_a_state_that_cannot_be_read_begins_anew_and_is_kept(tmp_path, saved):
    (tmp_path / "state.json").write_text(saved)
    assert Inspector([LATCHED], Recorder(tmp_path, 10**8)).active(0) == ()


def test_commands_that_cannot_be_are_refused(lived):
    _, inspector, _ = lived
    for name, command, words in (
        ("boiler/low", "reset", "no alarm"),
        ("boiler/high", "shelve", "duration"),
        ("boiler/high", "paint", "command"),
    ):
        with pytest.raises(InvalidInput, match=words):
            inspector.command(name, command, 0)


def test_a_report_has_all_and_states_gaps(lived, capsys):
    directory, inspector, _ = lived
    run(directory, [0.6, 0.6], begin_s=BASE_S + 600)
    out = directory / "out"
    assert main(["report", str(directory), "--output", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    point = report["points"]["boiler"]
    assert (
        point["looks"] == 12
        and point["maximum"] == pytest.approx(1.8, abs=0.05)
        and report["start"] == utc(BASE_S * SECOND)
    )
    assert [g["seconds"] for g in point["gaps"]] == [591.0]
    assert len([e for e in report["events"] if e["before"] != e["after"]]) == 4, "beside the commands"
    rows = list(csv.DictReader(open(out / "readings.csv")))
    assert (
        len(rows) == 12 and rows[0]["stamp"].endswith("Z") and float(rows[2]["value"]) == pytest.approx(1.8, abs=0.05)
    )
    page = (out / "report.md").read_text()
    assert "no look from" in page and "normal → pending" in page
    for link in re.findall(r"\]\(([^)]+\.jpg)\)", page):
        assert (out / link).is_file()
    assert main(["report", str(directory), "--output", str(out)]) == 2, "nothing is overwritten"
    assert main(["report", str(directory), "--points", "nobody"]) == 2
    assert main(["report", str(directory), "--start", "yesterday"]) == 2
    assert main(["report", str(directory / "nowhere")]) == 2


def test_words_from_pictures_are_no_formulas_and_no_markup(tmp_path):
    recorder = Recorder(tmp_path, 10**6)
    entry = dict(
        point="sign",
        camera="",
        quantity="sign",
        value=math.nan,
        uncertainty=math.nan,
        unit="1",
        zone="",
        text='=HYPERLINK("x")|<b>',
    )
    entry |= dict(
        quality="GOOD",
        reason="NONE",
        message="",
        measured=math.nan,
        model_value=math.nan,
        unit_seen="",
        looks=1,
        evidence_uri="",
    )
    recorder.write("reading", BASE_S * SECOND, entry)
    out = tmp_path / "out"
    assert main(["report", str(tmp_path), "--output", str(out)]) == 0
    assert "'=HYPERLINK" in (out / "readings.csv").read_text() and "<b>" not in (out / "report.md").read_text()


def picture(i: int) -> Kept:
    return Kept(
        (BASE_S + i) * SECOND, "", "c", encoded(np.random.default_rng(i).integers(0, 255, (60, 80, 3)).astype(np.uint8))
    )


def test_the_quota_takes_the_oldest_first(tmp_path):
    one = len(picture(0).jpeg)
    recorder = Recorder(tmp_path, 5 * one + 4000)
    uris = [recorder.keep("a", picture(i).stamp_ns, {}, [("x", picture(i))]) for i in range(12)]
    there = [Path(urlparse(u).path).exists() for u in uris]
    assert there[-1] and not there[0] and there == sorted(there)
    assert sum(f.stat().st_size for f in (tmp_path / "evidence").rglob("*") if f.is_file()) <= 5 * one + 4000
    assert recorder.keep("a", 0, {}, [("x", Kept(0, "", "c", b"0" * 10 * one))]) == "" and "quota" in recorder.trouble


def test_the_same_name_at_the_same_time_is_kept_twice(tmp_path):
    recorder = Recorder(tmp_path, 10**7)
    assert recorder.keep("a", 0, {}, [("x", picture(0))]) != recorder.keep("a", 0, {}, [("x", picture(0))])


@pytest.mark.parametrize("number", [28, 30, 13, 122])
def test_a_disk_that_refuses_costs_the_evidence_and_not_the_look(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, "refused")

    monkeypatch.setattr(recording.Path, "mkdir", refuse)
    inspector, outcomes = run(tmp_path / "not there", LIFE)
    rise = next(e for o in outcomes for e in o.events if e.after.value == "active")
    assert rise.evidence_uri == "" and "no evidence" in rise.message and "refused" in inspector.recorder.trouble
    assert inspector.recorder.lost > 0 and [o.reading.quality.name for o in outcomes] == ["GOOD"] * len(LIFE)


def test_on_a_disk_that_is_really_full_looks_and_alarms_go_on_and_once_there_is_room_evidence_does(tmp_path):
    with disk(tmp_path / "disk", "size=256k") as folder:
        fill(folder)
        inspector, outcomes = run(folder, LIFE)
        events = [e for o in outcomes for e in o.events]
        assert [e.after.value for e in events] == ["pending", "active", "clearing", "normal"]
        assert [o.reading.quality.name for o in outcomes] == ["GOOD"] * len(LIFE)
        rise = events[1]
        assert rise.evidence_uri == "" and "no evidence" in rise.message
        assert "No space left on device" in inspector.recorder.trouble and inspector.recorder.lost > 0
        kept = [f for f in folder.rglob("*") if f.is_file() and f.name != "filling"]
        assert not [f for f in kept if f.suffix in (".jpg", ".mcap")], "no half picture is left"
        for name in (f for f in kept if f.suffix == ".json"):
            json.loads(name.read_text())
    with disk(tmp_path / "room", "size=4m") as folder:
        fill(folder)
        inspector, _ = run(folder, LIFE[:2])
        recorder = inspector.recorder
        recorder.write("reading", 0, {"point": "lost"})
        (folder / "filling").unlink()
        recorder.write("reading", 0, {"point": "kept"})
        (journal,) = (folder / "journal").glob("1970*.jsonl")
        assert [json.loads(line)["point"] for line in journal.read_text().splitlines()] == ["kept"], "and no half line"
        uri = recorder.keep("a", picture(0).stamp_ns, {}, [("x", picture(0))])
        assert recorder.trouble == "" and json.loads(Path(urlparse(uri).path).read_text())["pictures"]
        fill(folder)
        recorder.add(uri, "after", picture(1))
        assert recorder.write_mcap(uri) == "" and "No space left" in recorder.trouble
        left = sorted(p.name.partition("_")[0] for p in Path(urlparse(uri).path).parent.iterdir())
        assert left == ["event.json", "x"], "no half file is left"
        (folder / "filling").unlink()
        recorder.add(uri, "after", picture(1))
        assert Path(urlparse(recorder.write_mcap(uri)).path).stat().st_size > 1000
