"""`qwen3vl measure`: the model finds, geometry decides; against what the simulator knows of the sample picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qwen3vl_ros import cli
from qwen3vl_ros.sim.camera import SimCamera
from qwen3vl_ros.sim.sample import SEED, write_sample
from qwen3vl_ros.sim.scenes import sample_scene


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return [f"{folder}/photo.png", "--depth", f"{folder}/depth.png", "--camera-info", f"{folder}/camera.yaml"]


@pytest.fixture(scope="module")
def centres_m():
    """Camera coordinates of each kind's centre; the sample has one of each."""
    with SimCamera(64, 48) as camera:
        return {t.kind: t.camera_T_object[:3, 3] for t in camera.render(sample_scene(SEED)).truths}


def measured(files, capsys, *words: str) -> dict:
    picture, *rest = files
    assert cli.main(["measure", picture, *words, *rest, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("a, b", [("mug", "bowl"), ("bowl", "cube"), ("cube", "mug")])
def test_sides_and_distances_are_those_of_the_scene(files, centres_m, capsys, a, b):
    gap_m = centres_m[b][0] - centres_m[a][0]
    fact = measured(files, capsys, "left_of", a, b)
    assert fact["verdict"] == ("TRUE" if gap_m > 0 else "FALSE") and abs(gap_m) > 0.05
    middles = next(v["value"] for v in fact["values"] if v["name"] == "middles")
    assert middles == pytest.approx(gap_m, abs=0.02)  # a mug's middle moves with how much of its handle is seen
    values = {v["name"]: v["value"] for v in measured(files, capsys, "distance", a, b)["values"]}
    assert values["centre"] == pytest.approx(np.linalg.norm(centres_m[a] - centres_m[b]), abs=0.02)
    assert 0 < values["surface"] < values["centre"]


def test_what_is_not_there_is_not_measured(files, capsys):
    assert measured(files, capsys, "exists", "cylinder")["verdict"] == "FALSE"
    absent = measured(files, capsys, "left_of", "cylinder", "mug")
    assert absent["verdict"] == "UNKNOWN" and "cylinder" in absent["reason"]


def test_everything_stands_on_the_table(files, capsys):
    assert measured(files, capsys, "on", "mug", "table")["verdict"] == "TRUE"
    assert measured(files, capsys, "on", "mug", "bowl")["verdict"] == "FALSE"


REFUSED = {
    "a view that nothing has": (["left_of", "mug", "bowl", "--view", "moon"], "view 'moon' is unknown"),
    "too few names": (["left_of", "mug"], "takes 2 arguments"),
    "an empty name": (["on", "mug", " "], "empty name"),
    "a phrase no prompt can hold": (["distance", 'a "mug"'], "quotation mark"),
}


@pytest.mark.parametrize("words, said", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_asked_is_refused_by_name(files, capsys, words, said):
    picture, *rest = files
    assert cli.main(["measure", picture, *words, *rest]) == 2
    assert said in capsys.readouterr().err
