"""The same place at other times, the arm in the view, closer looks: what the pictures of training show is what their labels say."""

from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
if find_spec("gym_hil") is None:
    pytest.skip("the arm's description is not installed", allow_module_level=True)

import data
import samples
from augment import _looked_at, augment
from batches import Batches
from embedded import MERGE, PATCH
from moments import ArmInView, changed, without
from muon import Muon
from settings import Settings
from text import PackedText

from qwen3vl_ros.sim.camera import SimCamera

PLACES = [samples.SPLIT_SEEDS["later"] + samples.MOMENTS * k for k in range(12)]


def test_a_place_is_the_same_at_all_its_moments_and_things_come_and_go():
    gone = moved = 0
    for place in PLACES:
        first, *others = (data.scene_of(place + k, "later") for k in range(samples.MOMENTS))
        assert first == data.scene_of(place, "later")
        for other in others:
            assert (other.camera, other.table, other.light, other.shelf) == (
                first.camera,
                first.table,
                first.light,
                first.shelf,
            )
            assert other.objects, "something is left"
            names = [(t.kind, t.colour, t.size_m) for t in first.objects]
            assert all((t.kind, t.colour, t.size_m) in names for t in other.objects)
            gone += len(first.objects) - len(other.objects)
            moved += sum(t.position_m not in [o.position_m for o in first.objects] for t in other.objects)
    assert gone > 10 and moved > 10


def test_what_bears_something_stays_and_what_lies_on_it_keeps_its_place():
    bearing = 0
    for place in PLACES:
        spec = data.scene_of(place, "later")
        for k in range(1, samples.MOMENTS):
            later = changed(spec, np.random.default_rng([place, k]))
            for thing in later.objects:
                if thing.on is not None:
                    bearing += 1
                    before = next(t for t in spec.objects if t.position_m == thing.position_m and t.kind == thing.kind)
                    below, was_below = later.objects[thing.on], spec.objects[before.on]
                    assert (below.kind, below.colour, below.position_m) == (
                        was_below.kind,
                        was_below.colour,
                        was_below.position_m,
                    )
    assert bearing > 5
    spec = next(s for s in (data.scene_of(p, "later") for p in PLACES) if len(s.objects) > 2)
    free = next(i for i in range(len(spec.objects)) if all(t.on != i for t in spec.objects))
    assert len(without(spec, free).objects) == len(spec.objects) - 1


def test_the_arm_hides_what_is_behind_it_and_is_no_object():
    arm, hidden, drawn = ArmInView(), 0, 0
    with SimCamera(160, 120, quality="fast", robot=arm.shapes) as camera:
        for seed in range(30):
            spec = data.scene_of(samples.SPLIT_SEEDS["wide"] + seed, "wide")
            parts = arm.parts(spec, np.random.default_rng(seed))
            if not parts:
                continue
            bare, with_arm = camera.render(spec, depth=False), camera.render(spec, depth=False, robot=parts)
            drawn += (bare.rgb != with_arm.rgb).any()
            assert {t.index for t in with_arm.truths} == {t.index for t in bare.truths}
            assert all(a.visibility <= b.visibility + 0.02 for a, b in zip(with_arm.truths, bare.truths, strict=True))
            hidden += sum(a.visibility < b.visibility - 0.05 for a, b in zip(with_arm.truths, bare.truths))
    assert drawn >= 5 and hidden >= 2, "in some views, and before some things"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """250 views of places at their moments, by two processes that share the shards."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "SHARD_VIEWS", 20)
        for share in (0, 1):
            data.render(folder, "later", 40, "fast", share, 2)
    assert sorted(p.name for p in folder.iterdir()) == ["later_00000.npz", "later_00001.npz"]
    return folder


def test_views_of_one_place_follow_each_other_in_a_batch(shards):
    settings = Settings(plain_share=0, wide_share=0, close_share=0, later_share=1, batch=8, mosaics=0, frames_every=1)
    w, h = data.INPUT_SIZE
    grid = h // PATCH // MERGE, w // PATCH // MERGE
    packer = PackedText(128, grid[0] * grid[1], grid, 0.4, pictured_only=True)
    source = Batches(data.Mixture(shards, settings.splits()), packer, settings, "joint", 1, (0,))
    views = source.views.moments(4, np.random.default_rng(0))
    assert len(views) == 4 and len({v.wide for v in views}) == 1
    places = [v.things[-1].world_m if v.levels else None for v in views]
    assert len(set(places)) == 1, "the shelf, where there is one, stands where it stood"
    rng, asked = np.random.default_rng(2), 0
    for _ in range(6):
        batch = source.draw(rng)
        assert batch["frames_of"] in (2, 3, 4) and batch["images"].shape[0] == 8
        asked += int((batch["frames"]["weights"] > 0).sum())
    assert asked > 50


def test_a_closer_look_shows_a_dial_or_a_sign_large_and_its_box_around_it():
    with SimCamera(*data.VIEW_SIZE, quality="fast") as camera:
        seeds = range(samples.SPLIT_SEEDS["close"], samples.SPLIT_SEEDS["close"] + 6)
        views = [data.sample_of(camera.render(data.scene_of(s, "close"), depth=False), wide=True) for s in seeds]
    rng, looks = np.random.default_rng(1), 0
    for _ in range(40):
        sample = views[int(rng.integers(len(views)))]
        written = [*sample.dials, *sample.signs]
        part = _looked_at(sample, written, rng)
        if part is None:
            continue
        looks += 1
        (x0, y0, w, h), (height, width) = part, sample.labels.shape
        assert x0 >= 0 and y0 >= 0 and x0 + w <= width and y0 + h <= height and min(w, h) > 10
        bx0, by0, bx1, by1 = sample.things[written[0]].box_xyxy_px
        inside = max(0, min(bx1, x0 + w) - max(bx0, x0)) * max(0, min(by1, y0 + h) - max(by0, y0))
        assert inside > 0.6 * (bx1 - bx0) * (by1 - by0)
    assert looks > 5
    for _ in range(20):
        sample = augment(views[int(rng.integers(len(views)))], rng)
        assert sample.rgb.shape[:2] == sample.labels.shape == data.INPUT_SIZE[::-1]


def test_muon_by_shapes_is_torch_s_muon():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s)) for s in ((20, 30), (20, 30), (40, 10), (30, 20))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    steps = [
        of(
            [dict(params=[p], weight_decay=0.03) for p in params],
            lr=1e-2,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
        for of, params in ((Muon, ours), (torch.optim.Muon, theirs))
    ]
    for _ in range(4):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimiser in steps:
            optimiser.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)
