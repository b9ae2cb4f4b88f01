"""Where a dial's needle stands among its marks: found in the picture by geometry alone, with its uncertainty.

The marks of a scale point at the pivot, whatever the perspective: lines through them meet there. Their outer ends lie on a
circle, which the picture shows as an ellipse; ellipse and pivot together undo the perspective exactly (Hartley & Zisserman, the
polar of a circle's centre is the face's vanishing line). Unrolled around the pivot, marks and needle are peaks of a
profile; the longest gap between marks is where the scale ends and begins. Knows nothing of units, models and time.

Angles are degrees, clockwise in the picture from its +x axis; radii are in units of the circle through the marks' outer ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Mapping

import cv2
import numpy as np

from qwen3vl_ros.types import PerceptionError

_SIDE = 480.0  # the dial's longer side in the picture that is worked on, pixels
_INK = 0.22  # contrast of ink on the face
_SMOOTH_PX = 0.8, 1.6  # the second where the first fails: noise breaks faint marks up, and makes some
_STEPS = 1440  # angles of the unrolled face
_RADII = 200  # radii of it, up to _REACH
_REACH = 1.20
_LEAST_MARKS = 7
_RADIAL_PX, _RADIAL_DEG = 7.0, 9.0  # how far a mark's line may miss the pivot
_ON_RING = 0.045
_MARK_BAND, _LONG_BAND, _NEEDLE_BAND = (0.905, 0.985), (0.855, 0.895), (0.16, 0.74)
_LEAST_GAP_DEG = 32.0
_LEAST_SWEEP_DEG = 45.0
_LARGEST_DIVISION = 0.2  # of the sweep, between two marks that are seen
_MARK_SIGMA_DEG, _SWEEP_OFF_DEG = 0.3, 5.0
_RIVAL = 0.62  # of the needle's strength: a second needle so strong makes both doubtful


class Unreadable(PerceptionError):
    """The face cannot be measured; the message says what is missing."""


class _Ambiguous(Unreadable):
    """There is too much to see, and smoothing would hide a part of it."""


@dataclass(frozen=True)
class Needle:
    """What was measured of a dial.

    fraction: where the needle stands between the first mark (0) and the last (1), beyond either outside 0..1. sigma: its standard
    deviation. sweep_deg: from the first mark to the last. marks: how many were seen. centre_px, tip_px, first_px, last_px: in the
    picture given. colour: of the zone beside the needle's tip, "" where there is none. rival: strength of the next best needle,
    as a share of this one's.
    """

    fraction: float
    sigma: float
    sweep_deg: float
    marks: int
    centre_px: tuple[float, float]
    tip_px: tuple[float, float]
    first_px: tuple[float, float]
    last_px: tuple[float, float]
    colour: str
    rival: float


def measure(
    rgb: np.ndarray,
    box_xyxy_px: tuple[float, float, float, float] | None = None,
    sweep_deg: float | None = None,
) -> Needle:
    """The needle of the one dial in the picture, HxWx3 uint8. box: roughly where the dial is; all of the picture without.
    sweep_deg: from the first mark to the last, where that is known: a scale of which a part is hidden seems shorter. Where it is not,
    the first and the last mark have to be long ones.

    Raises Unreadable.
    """
    h, w = rgb.shape[:2]
    x0, y0, x1, y1 = box_xyxy_px or (0, 0, w, h)
    grow = 0.06 * max(x1 - x0, y1 - y0)
    x0, y0, x1, y1 = max(0, int(x0 - grow)), max(0, int(y0 - grow)), min(w, int(x1 + grow)), min(h, int(y1 + grow))
    if min(x1 - x0, y1 - y0) < 40:
        raise Unreadable(f"the dial has {x1 - x0}x{y1 - y0} pixels; it needs 40 or more: zoom in or move nearer")
    scale = _SIDE / max(x1 - x0, y1 - y0)
    part = cv2.resize(
        np.ascontiguousarray(rgb[y0:y1, x0:x1]),
        None,
        fx=scale,
        fy=scale,
        interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA,
    )
    failed = None
    for smooth_px in _SMOOTH_PX:
        try:
            flat, face, angles, needle, (first, last) = _measured(part, smooth_px, sweep_deg)
            break
        except _Ambiguous:
            raise
        except Unreadable as why:
            failed = failed or why
    else:
        raise failed
    needle_deg, spread_deg, rival = needle
    sweep = (last - first) % 360.0
    along = (needle_deg - first) % 360.0
    gap = 360.0 - sweep
    if along > sweep + gap / 2:
        along -= 360.0
    sigma_deg = float(np.hypot(spread_deg, _MARK_SIGMA_DEG))

    def place(angle_deg: float, radius: float) -> tuple[float, float]:
        at = radius * np.cos(np.deg2rad(angle_deg)), radius * np.sin(np.deg2rad(angle_deg))
        x, y = cv2.perspectiveTransform(np.array([[at]]), np.linalg.inv(flat))[0, 0]
        return float(x / scale + x0), float(y / scale + y0)

    return Needle(
        along / sweep,
        sigma_deg / sweep,
        sweep,
        len(angles),
        place(0, 0),
        place(needle_deg, 0.88),
        place(first, 0.92),
        place(last, 0.92),
        _zone(face, needle_deg),
        rival,
    )


def _measured(part: np.ndarray, smooth_px: float, sweep_deg: float | None):
    """(picture -> face 3x3, the unrolled face, angles of its marks, needle as `_needle`, angles of the first and last mark)."""
    ink = _ink(part, smooth_px)
    flat = _flattening(*_marks(ink))
    unrolled = _unrolled(np.dstack([part, (255 * ink).astype(np.uint8)]), flat)
    face, inked = np.ascontiguousarray(unrolled[..., :3]), unrolled[..., 3].astype(np.float32) / 255
    angles = _mark_angles(inked)
    needle = _needle(face, inked)
    if needle[2] > _RIVAL:
        raise _Ambiguous("two things look like the needle; glare, a shadow or a second needle")
    return flat, face, angles, needle, _ends(angles, inked, sweep_deg)


def share_of(points_px: Mapping[str, tuple[float, float]], sweep_deg: float | None, off_deg: float) -> float:
    """Where a needle stands by its centre, tip and the scale's first and last mark, as Needle.fraction; no perspective is undone.

    NaN where the points make no dial: two of them in one place, or a sweep that is off by more than off_deg.
    """
    centre = np.array(points_px["centre"])
    out = np.array([points_px[name] for name in ("first", "last", "tip")]) - centre
    if np.linalg.norm(out, axis=1).min() < 1:
        return math.nan
    first, last, tip = np.rad2deg(np.arctan2(out[:, 1], out[:, 0]))
    sweep, along = (last - first) % 360.0, (tip - first) % 360.0
    if sweep < _LEAST_SWEEP_DEG or sweep_deg is not None and abs(sweep - sweep_deg) > off_deg:
        return math.nan
    return float(along if along <= (sweep + 360) / 2 else along - 360.0) / sweep


# -- marks, pivot, perspective ---------------------------------------------------------------------------------------


def _ink(rgb: np.ndarray, smooth_px: float) -> np.ndarray:
    """HxW float32 0..1: how much darker than the face around it; thin dark strokes alone, no coloured zones."""
    smooth = cv2.GaussianBlur(rgb, (0, 0), smooth_px)
    brightest = smooth.max(2).astype(np.float32)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (29, 29))
    paper = np.maximum(cv2.morphologyEx(brightest, cv2.MORPH_CLOSE, kernel), 24.0)
    coloured = (brightest - smooth.min(2) > 0.38 * brightest) & (brightest > 0.35 * paper)
    return np.where(coloured, 0, np.clip((paper - brightest) / paper, 0.0, 1.0))


def _strokes(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Middles (Nx2), unit directions (Nx2) and pixels of the short straight strokes."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((ink > _INK).astype(np.uint8), connectivity=8)
    middles, ways, pixels = [], [], []
    for i in range(1, count):
        x, y, width, height, area = stats[i]
        if not (10 <= area <= 900 and 6 <= np.hypot(width, height) <= 75):
            continue
        ys, xs = np.nonzero(labels[y : y + height, x : x + width] == i)
        points = np.stack([xs + x, ys + y], 1).astype(float)
        middle = points.mean(0)
        values, vectors = np.linalg.eigh(np.cov((points - middle).T) + 0.08 * np.eye(2))
        if values[1] > 4.0 * values[0]:
            middles.append(middle)
            ways.append(vectors[:, 1])
            pixels.append(points)
    return np.array(middles).reshape(-1, 2), np.array(ways).reshape(-1, 2), pixels


def _marks(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pivot, where the strokes' lines meet, and the outer ends (Nx2) of the strokes that point at it."""
    middles, ways, pixels = _strokes(ink)
    if len(middles) < _LEAST_MARKS:
        raise Unreadable(f"only {len(middles)} marks can be seen; a scale has {_LEAST_MARKS} or more")
    normals = np.stack([-ways[:, 1], ways[:, 0]], 1)
    offsets = (normals * middles).sum(1)
    i, j = np.triu_indices(len(middles), 1)
    det = normals[i, 0] * normals[j, 1] - normals[i, 1] * normals[j, 0]
    fit = np.abs(det) > 0.25
    i, j, det = i[fit], j[fit], det[fit]
    crossings = np.stack(
        [
            (offsets[i] * normals[j, 1] - offsets[j] * normals[i, 1]) / det,
            (offsets[j] * normals[i, 0] - offsets[i] * normals[j, 0]) / det,
        ],
        1,
    )
    size = np.array(ink.shape[::-1])
    crossings = crossings[((crossings > 0.25 * size) & (crossings < 0.75 * size)).all(1)]
    if not len(crossings):
        raise Unreadable("the marks point at no common middle")
    if len(crossings) > 3000:
        crossings = crossings[np.random.default_rng(0).choice(len(crossings), 3000, replace=False)]
    votes = _pointing(crossings, middles, ways).sum(1)
    centre = crossings[votes.argmax()]
    for _ in range(4):
        radial = _pointing(centre[None], middles, ways)[0]
        if radial.sum() < _LEAST_MARKS:
            raise Unreadable(f"only {radial.sum()} marks point at one middle; a scale has {_LEAST_MARKS} or more")
        weights = 1 / np.maximum(np.linalg.norm(middles[radial] - centre, axis=1), 1)[:, None]
        centre = np.linalg.lstsq(normals[radial] * weights, offsets[radial] * weights[:, 0], rcond=None)[0]
    ends = []
    for index in np.flatnonzero(radial):
        out = middles[index] - centre
        out /= np.linalg.norm(out)
        reach = (pixels[index] - centre) @ out
        ends.append(centre + out * np.percentile(reach, 96))
    return centre, np.array(ends)


def _pointing(points: np.ndarray, middles: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """MxN: whether each of M points lies on the line of each of N strokes, and away from it."""
    apart = points[:, None] - middles
    far = np.linalg.norm(apart, axis=2)
    miss = np.abs(apart[..., 0] * ways[:, 1] - apart[..., 1] * ways[:, 0])
    return (miss < _RADIAL_PX) & (miss < far * np.sin(np.deg2rad(_RADIAL_DEG))) & (far > 0.16 * _SIDE)


def _flattening(centre: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """3x3: picture -> the face seen from straight before it, pivot at 0 and the marks' outer ends on the unit circle."""
    conic = _ring(centre, ends)
    line = conic @ (*centre, 1.0)
    level = np.eye(3)
    level[2] = line / line[2]
    away = np.linalg.inv(level)
    there = away.T @ conic @ away
    middle = level @ (*centre, 1.0)
    middle = middle[:2] / middle[2]
    shift = np.eye(3)
    shift[:2, 2] = middle
    there = shift.T @ there @ shift
    values, vectors = np.linalg.eigh(-there[:2, :2] / there[2, 2])
    if not (values > 0).all():
        raise Unreadable("the marks lie on no circle around the pivot")
    round_ = np.eye(3)
    round_[:2, :2] = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    back = np.eye(3)
    back[:2, 2] = -middle
    return round_ @ back @ level


def _ring(centre: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """3x3 conic through most of the outer ends, the largest that is."""
    rng, best, most = np.random.default_rng(0), None, 0.0
    local = ((ends - centre) / _SIDE).astype(np.float32)
    for _ in range(300):
        conic = _conic(local[rng.choice(len(local), 5, replace=False)])
        if conic is None:
            continue
        radius = _radii(conic, local)
        near = np.abs(radius - 1) < _ON_RING
        score = near.sum() - 0.5 * (radius > 1 + 2 * _ON_RING).sum()
        if score > most:
            best, most = near, score
    if best is None or best.sum() < _LEAST_MARKS:
        raise Unreadable("the marks lie on no common circle")
    for _ in range(3):
        conic = _conic(local[best])
        if conic is None:
            raise Unreadable("the marks lie on no common circle")
        best = np.abs(_radii(conic, local) - 1) < 0.7 * _ON_RING
        if best.sum() < _LEAST_MARKS:
            raise Unreadable("the marks lie on no common circle")
    to_local = np.array([[1 / _SIDE, 0, -centre[0] / _SIDE], [0, 1 / _SIDE, -centre[1] / _SIDE], [0, 0, 1]])
    return to_local.T @ conic @ to_local


def _conic(points: np.ndarray) -> np.ndarray | None:
    """3x3 of the ellipse through points, negative inside; None where they make none around the origin that a dial could have."""
    (x, y), (a, b), turn = cv2.fitEllipseDirect(points)
    a, b = a / 2, b / 2
    if not (np.isfinite([x, y, a, b]).all() and 0.12 < min(a, b) and max(a, b) < 0.75 and max(a, b) < 2.2 * min(a, b)):
        return None
    if np.hypot(x, y) > 0.25 * min(a, b):
        return None
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    turned = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    return turned.T @ np.diag([1 / a**2, 1 / b**2, -1]) @ turned


def _radii(conic: np.ndarray, points: np.ndarray) -> np.ndarray:
    """1 on the conic, 0 in its middle, along rays from the origin, which lies inside."""
    xy = points.astype(float)
    quadratic = np.einsum("ni,ij,nj->n", xy, conic[:2, :2], xy)
    linear = 2 * xy @ conic[:2, 2]
    reach = (-linear + np.sqrt(np.maximum(linear**2 - 4 * quadratic * conic[2, 2], 0))) / (2 * quadratic)
    return 1 / np.maximum(reach, 1e-6)


# -- the unrolled face -----------------------------------------------------------------------------------------------


def _unrolled(picture: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """_STEPS x _RADII x channels: rows are angles, columns radii up to _REACH."""
    angles = np.arange(_STEPS) * (2 * np.pi / _STEPS)
    radii = (np.arange(_RADII) + 0.5) * (_REACH / _RADII)
    plane = np.stack([np.cos(angles)[:, None] * radii, np.sin(angles)[:, None] * radii], 2).reshape(-1, 1, 2)
    at = cv2.perspectiveTransform(plane, np.linalg.inv(flat)).reshape(_STEPS, _RADII, 2).astype(np.float32)
    return cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _band(limits: tuple[float, float]) -> slice:
    return slice(int(limits[0] / _REACH * _RADII), int(limits[1] / _REACH * _RADII))


def _smooth(profile: np.ndarray, sigma_deg: float) -> np.ndarray:
    sigma = sigma_deg * _STEPS / 360
    pad = int(4 * sigma) + 1
    wrapped = np.concatenate([profile[-pad:], profile, profile[:pad]]).astype(np.float32)
    return cv2.GaussianBlur(wrapped[None], (0, 0), sigma)[0, pad:-pad]


def _peaks_at(profile: np.ndarray) -> np.ndarray:
    """Steps of the local maxima."""
    return np.flatnonzero((profile >= np.roll(profile, 1)) & (profile > np.roll(profile, -1)) & (profile > 0.05))


def _peaks(profile: np.ndarray, least: float) -> np.ndarray:
    """Angles of the local maxima of at least so much, to a part of a step."""
    before, after = np.roll(profile, 1), np.roll(profile, -1)
    at = np.flatnonzero((profile >= before) & (profile > after) & (profile >= least))
    bend = before[at] - 2 * profile[at] + after[at]
    shift = 0.5 * (before[at] - after[at]) / np.where(bend == 0, -1, bend)
    return ((at + np.clip(shift, -0.5, 0.5)) * 360.0 / _STEPS) % 360.0


def _mark_angles(inked: np.ndarray) -> np.ndarray:
    profile = _smooth(inked[:, _band(_MARK_BAND)].mean(1), 0.5)
    angles = np.sort(_peaks(profile, max(0.10, 0.35 * float(np.percentile(profile, 97)))))
    if len(angles) < _LEAST_MARKS:
        raise Unreadable(f"only {len(angles)} marks can be seen on the ring; a scale has {_LEAST_MARKS} or more")
    return angles


def _needle(face: np.ndarray, inked: np.ndarray) -> tuple[float, float, float]:
    """Its angle, the spread of that along its length, and the strength of the next best."""
    band = _band(_NEEDLE_BAND)
    grey = face[:, band].min(2).astype(np.float32)
    paper = np.maximum(np.percentile(grey, 80, axis=0), 24.0)
    dark = np.clip((paper - grey) / paper, 0, 1)
    # Part of it by part: a needle is there in all of them, a digit in one.
    parts = np.stack([_smooth(p.mean(1), 0.6) for p in np.array_split(dark, 5, axis=1)])
    strength = np.sort(parts, 0)[:2].mean(0) + 0.3 * parts.mean(0)
    best = int(strength.argmax())
    if parts[:, best].min() < 0.12:
        raise Unreadable("no needle can be seen from the pivot to the marks")
    apart = np.abs((np.arange(_STEPS) - best + _STEPS // 2) % _STEPS - _STEPS // 2) * 360 / _STEPS
    rival = float(strength[apart > 9].max() / strength[best])
    window = int(5 * _STEPS / 360)
    rows = (best + np.arange(-window, window + 1)) % _STEPS
    places, weights = [], []
    for part in np.array_split(dark[rows], 12, axis=1):
        profile = part.mean(1)
        profile = np.clip(profile - 0.5 * profile.max(), 0, None)
        if profile.max() > 0.06:
            places.append((profile * np.arange(-window, window + 1)).sum() / profile.sum())
            weights.append(profile.max())
    places = np.array(places) * 360 / _STEPS
    middle = float(np.median(places))
    kept = np.abs(places - middle) < 1.5
    angle = float(np.mean(places[kept]))
    spread = float(np.std(places[kept]) / np.sqrt(max(kept.sum(), 1)) + 0.15 + 2.0 * (~kept).mean())
    return (best * 360 / _STEPS + angle) % 360.0, spread, rival


def _ends(angles: np.ndarray, inked: np.ndarray, sweep_deg: float | None) -> tuple[float, float]:
    """Angles of the first and the last mark, clockwise: beside the widest gap, or, where the sweep is known, so far apart."""
    gaps = (np.roll(angles, -1) - angles) % 360.0
    widest = int(gaps.argmax())
    first, last = float(angles[(widest + 1) % len(angles)]), float(angles[widest])
    second = float(np.delete(gaps, widest).max())
    two = second > 0.75 * gaps[widest] and second > _LEAST_GAP_DEG
    if sweep_deg is not None:
        if not two and abs((last - first) % 360.0 - sweep_deg) <= _SWEEP_OFF_DEG:
            return first, last
        return _ends_so_far_apart(angles, inked, sweep_deg, (last - first) % 360.0)
    if gaps[widest] < _LEAST_GAP_DEG:
        raise Unreadable("the scale has no gap that shows where it begins")
    if two:
        raise Unreadable("the marks leave two gaps; one may be hidden: where the scale begins cannot be told")
    if not _are_long(inked, np.array((first, last))).all():
        raise Unreadable("the scale does not end with long marks: an end may be hidden; `sweep` in the file would tell")
    return first, last


def _ends_so_far_apart(angles: np.ndarray, inked: np.ndarray, sweep_deg: float, seen_deg: float) -> tuple[float, float]:
    """Of a face that shows dark strokes beyond its scale, too: the two long marks of that sweep with marks all the way between."""
    off = (angles - angles[:, None]) % 360.0 - sweep_deg
    long = _are_long(inked, angles)
    fit = (np.abs(off) <= _SWEEP_OFF_DEG) & long & long[:, None]
    found = []
    for i, j in zip(*np.nonzero(fit)):
        inside = np.sort((angles - angles[i]) % 360.0)
        inside = inside[inside <= sweep_deg + off[i, j] + 1e-6]
        if len(inside) >= _LEAST_MARKS and np.diff(inside).max() <= _LARGEST_DIVISION * sweep_deg:
            found.append((float(angles[i]), float(angles[j])))
    if len(found) != 1:
        raise Unreadable(
            f"the scale spans {seen_deg:.0f} degrees where it should {sweep_deg:g}: a part of it is hidden"
        )
    return found[0]


def _are_long(inked: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Which marks, by their angles, reach as far inwards as those that bear numbers."""
    long = _smooth(inked[:, _band(_LONG_BAND)].mean(1), 0.5)
    usual = float(np.percentile(long[_peaks_at(long)], 90)) if len(_peaks_at(long)) else 0.0
    rows = ((angles * _STEPS / 360).astype(int)[:, None] + np.arange(-6, 7)) % _STEPS
    return long[rows].max(1) >= 0.45 * usual


def _zone(face: np.ndarray, needle_deg: float) -> str:
    """Colour of the ring beside the needle's tip."""
    rows = (int(needle_deg * _STEPS / 360) + np.arange(-10, 11)) % _STEPS
    ring = face[rows][:, _band((1.00, 1.065))].reshape(-1, 1, 3)
    hue, saturation, value = (cv2.cvtColor(ring, cv2.COLOR_RGB2HSV)[:, 0, i].astype(int) for i in range(3))
    coloured = (saturation > 110) & (value > 40)
    if coloured.mean() < 0.5:
        return ""
    hue = hue[coloured]
    shares = {
        "red": ((hue < 11) | (hue > 168)).mean(),
        "yellow": ((hue >= 16) & (hue < 36)).mean(),
        "green": ((hue >= 40) & (hue < 90)).mean(),
    }
    name = max(shares, key=shares.get)
    return name if shares[name] > 0.6 else ""
