"""A small copy of a picture, and what depth shows in a box of it. Knows nothing of time, of ids or of labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from qwen3vl_ros.types import Frame

WIDTH_PX = 320
GRID = 5  # cells a side of a box; the best pixel of each is followed
MIN_TEXTURE = 4e-5  # of a pixel worth following: an edge of about 5 grey levels
SIDE_POINTS = 8  # of what stands in a box, for each of its sides
FRONT_POINTS = 60
STANDS_OUT_M = 0.004  # nearer than the surface around it by this
STANDS_OUT_SHARE = 0.008  # and by this share of its depth
MOSTLY_FREE = 0.1  # of an outline's box may something nearer hide
MIN_SHARE = 0.15  # of the box; less standing out is noise, and the box holds something flat


@dataclass(frozen=True, eq=False)
class Glimpse:
    """All that is kept of a frame; its pixels are called small pixels.

    grey: hxw uint8. depth_m: hxw float32, 0 = no reading, None without depth. K: 3x3 of the small picture, None if unknown.
    frame_T_camera: 4x4, identity where `frame_id` is the camera's own. scale: whole pixels per small pixel (x, y).
    """

    stamp_ns: int
    grey: np.ndarray
    scale: np.ndarray
    frame_id: str
    frame_T_camera: np.ndarray
    depth_m: np.ndarray | None = None
    K: np.ndarray | None = None

    @classmethod
    def of(cls, frame: Frame) -> Glimpse:
        """The glimpse of a frame; depth that does not fit the picture is left out."""
        width, height = frame.size_px
        small = (width, height) if width <= WIDTH_PX else (WIDTH_PX, max(1, round(WIDTH_PX * height / width)))
        grey = cv2.cvtColor(cv2.resize(frame.rgb, small, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        scale = np.array((width / small[0], height / small[1]))
        depth_m = K = None
        if frame.K is not None:
            K = np.array(frame.K, float)
            K[:2, 2] = (K[:2, 2] + 0.5) / scale - 0.5  # whole numbers are the centres of pixels
            K[:2, :2] /= scale[:, None]
            if frame.depth_m is not None and frame.depth_m.shape == (height, width):
                depth_m = cv2.resize(np.asarray(frame.depth_m, np.float32), small, interpolation=cv2.INTER_NEAREST)
                cv2.patchNaNs(depth_m, 0.0)
        known = frame.target_T_camera is not None
        pose = np.asarray(frame.target_T_camera, float) if known else np.eye(4)
        return cls(frame.stamp_ns, grey, scale, frame.target_frame if known else frame.frame_id, pose, depth_m, K)

    @cached_property
    def nearest_m(self) -> np.ndarray | None:
        """hxw: the nearest reading around each pixel, inf without one: a point on an outline belongs to what is in front."""
        if self.depth_m is None:
            return None
        depth_m = self.depth_m.copy()
        depth_m[depth_m <= 0.0] = np.inf
        return cv2.erode(depth_m, _AROUND)

    @cached_property
    def texture(self) -> np.ndarray:
        """hxw: how well a pixel can be followed: corners best, then edges."""
        gx, gy = cv2.Sobel(self.grey, cv2.CV_32F, 1, 0), cv2.Sobel(self.grey, cv2.CV_32F, 0, 1)
        return cv2.cornerMinEigenVal(self.grey, 5) + 1e-6 * cv2.magnitude(gx, gy)

    @cached_property
    def brightness(self) -> tuple[float, float]:
        """Mean and standard deviation of the greys."""
        mean, deviation = cv2.meanStdDev(self.grey)
        return float(mean[0, 0]), max(float(deviation[0, 0]), 1.0)

    @cached_property
    def thumbnail(self) -> np.ndarray:
        return cv2.resize(self.grey, (32, 24), interpolation=cv2.INTER_AREA)

    def depths_m(self, pixels: np.ndarray) -> np.ndarray:
        """N of small pixels Nx2; NaN where there is no reading."""
        if self.nearest_m is None:
            return np.full(len(pixels), np.nan)
        height, width = self.grey.shape
        whole = np.rint(pixels).astype(np.intp)
        np.clip(whole, 0, (width - 1, height - 1), out=whole)
        z = self.nearest_m[whole[:, 1], whole[:, 0]].astype(float)
        z[z == np.inf] = np.nan
        return z

    def points_m(self, pixels: np.ndarray, z: np.ndarray | None = None) -> np.ndarray:
        """Nx3 in `frame_id` of small pixels Nx2, at their depths or at z (N, metres); NaN where there is none."""
        if self.K is None:
            return np.full((len(pixels), 3), np.nan)
        z = self.depths_m(pixels) if z is None else z
        local = np.empty((len(pixels), 3))
        local[:, 0] = (pixels[:, 0] - self.K[0, 2]) / self.K[0, 0] * z
        local[:, 1] = (pixels[:, 1] - self.K[1, 2]) / self.K[1, 1] * z
        local[:, 2] = z
        return local @ self.frame_T_camera[:3, :3].T + self.frame_T_camera[:3, 3]

    def project_px(self, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nx2 small pixels and N depths in metres of Nx3 points in `frame_id`; NaN behind the camera or without K."""
        if self.K is None:
            return np.full((len(points_m), 2), np.nan), np.full(len(points_m), np.nan)
        local = (points_m - self.frame_T_camera[:3, 3]) @ self.frame_T_camera[:3, :3]
        z = local[:, 2].copy()
        z[~(z > 1e-3)] = np.nan
        pixels = local[:, :2] / z[:, None]
        pixels *= (self.K[0, 0], self.K[1, 1])
        pixels += self.K[:2, 2]
        return pixels, z

    def depth_of_m(self, point_m: np.ndarray) -> float:
        """Distance of a point (3, in `frame_id`) along the optical axis, metres."""
        return float((point_m - self.frame_T_camera[:3, 3]) @ self.frame_T_camera[:3, 2])

    def window(self, box: np.ndarray) -> tuple[slice, slice]:
        """Rows and columns of the whole small pixels in a box (xyxy, edges), cut at the picture's border."""
        height, width = self.grey.shape
        x0, y0, x1, y1 = (round(v) for v in box.tolist())
        return (
            slice(min(max(y0, 0), height), min(max(y1, 0), height)),
            slice(min(max(x0, 0), width), min(max(x1, 0), width)),
        )


_AROUND = np.ones((3, 3), np.uint8)


def same_view(before: Glimpse, now: Glimpse) -> float:
    """How alike two pictures are, -1..1, whatever their brightness and a shift of up to an eighth: low across a cut."""
    height, width = before.thumbnail.shape
    middle = before.thumbnail[height // 8 : -height // 8, width // 8 : -width // 8]
    return float(cv2.matchTemplate(now.thumbnail, middle, cv2.TM_CCOEFF_NORMED).max())


@dataclass(frozen=True, eq=False)
class Front:
    """What stands in a box before the surface around it, by depth.

    mask: uint8 of the box's pixels, None where depth shows no such thing. behind: the surface, n and c with n . p = c in the
    glimpse's frame. centre_m: middle of what stands out, 3 metres, NaN without depth. near_m, far_m: its depths. sides_m, sides_px:
    4 x SIDE_POINTS x 3 and x 2, what of it is farthest left, up, right and down.
    """

    mask: np.ndarray | None = None
    behind: tuple[np.ndarray, float] | None = None
    centre_m: np.ndarray = field(default_factory=lambda: np.full(3, np.nan))
    near_m: float = float("nan")
    far_m: float = float("nan")
    sides_m: np.ndarray | None = None
    sides_px: np.ndarray | None = None

    @classmethod
    def of(cls, glimpse: Glimpse, box: np.ndarray, behind: tuple[np.ndarray, float] | None = None) -> Front:
        """behind: the surface, if it is known from before; else it is what surrounds the box."""
        if glimpse.nearest_m is None:
            return cls()
        rows, columns = glimpse.window(box)
        behind = behind or surface_around(glimpse, rows, columns)
        mask = None if behind is None else _own(glimpse, rows, columns, standing_out(glimpse, rows, columns, behind))
        v, u = np.nonzero(np.isfinite(glimpse.nearest_m[rows, columns]) if mask is None else mask)
        if len(v) < SIDE_POINTS:
            return cls(mask, behind)
        pixels = np.column_stack((columns.start + u, rows.start + v)).astype(float)
        ends = np.argpartition(pixels, (SIDE_POINTS - 1, -SIDE_POINTS), axis=0)
        sides_px = pixels[np.stack((ends[:SIDE_POINTS], ends[-SIDE_POINTS:])).transpose(0, 2, 1).reshape(4, -1)]
        sides_m = glimpse.points_m(sides_px.reshape(-1, 2)).reshape(4, -1, 3)
        sample = pixels[:: max(1, len(v) // FRONT_POINTS)]
        z = glimpse.depths_m(sample)
        centre_m = median(glimpse.points_m(sample, z))
        z.sort()
        return cls(mask, behind, centre_m, z[len(z) // 20], z[-1 - len(z) // 20], sides_m, sides_px)

    @property
    def known(self) -> bool:
        return self.sides_m is not None


def surface_around(glimpse: Glimpse, rows: slice, columns: slice) -> tuple[np.ndarray, float] | None:
    """The plane (n . p = c, in the glimpse's frame) through most of what surrounds a window; None with too little depth.

    The inverse depth of a plane is affine in the pixels.
    """
    height, width = glimpse.grey.shape
    h, w = rows.stop - rows.start, columns.stop - columns.start
    tall = slice(max(rows.start - h // 4 - 2, 0), min(rows.stop + h // 4 + 2, height))
    wide = slice(max(columns.start - w // 4 - 2, 0), min(columns.stop + w // 4 + 2, width))
    inverse = 1.0 / glimpse.nearest_m[tall, wide]
    inverse[
        rows.start - tall.start : rows.stop - tall.start, columns.start - wide.start : columns.stop - wide.start
    ] = 0.0
    v, u = np.nonzero(inverse)
    if min(h, w) == 0 or len(v) < 20:
        return None
    step = max(1, len(v) // 200)
    v, u = v[::step], u[::step]
    a, b, c = _plane_of_most(u + wide.start, v + tall.start, inverse[v, u].astype(float))
    (fx, _, cx), (_, fy, cy) = glimpse.K[:2]
    n = glimpse.frame_T_camera[:3, :3] @ (a * fx, b * fy, a * cx + b * cy + c)  # n . p = 1 in the camera's frame
    return n, 1.0 + float(n @ glimpse.frame_T_camera[:3, 3])


def standing_out(glimpse: Glimpse, rows: slice, columns: slice, behind: tuple[np.ndarray, float]) -> np.ndarray:
    """Bool mask of the window's pixels that are in front of a plane."""
    n, c = behind
    m = glimpse.frame_T_camera[:3, :3].T @ n / (c - float(n @ glimpse.frame_T_camera[:3, 3]))
    (fx, _, cx), (_, fy, cy) = glimpse.K[:2]
    a, b = m[0] / fx, m[1] / fy
    v, u = np.ogrid[rows, columns]
    plane = (a * u + b * v + (m[2] - a * cx - b * cy)).astype(np.float32)
    inverse = 1.0 / glimpse.nearest_m[rows, columns]
    return inverse - plane > (STANDS_OUT_M + STANDS_OUT_SHARE / np.maximum(inverse, 1e-3)) * inverse**2


def outline_near(
    glimpse: Glimpse,
    box: np.ndarray,
    depths_m: tuple[float, float],
    behind: tuple[np.ndarray, float],
    search: float,
    tolerance: float,
    whole: bool = False,
) -> np.ndarray | None:
    """Outline (xyxy, small pixels) of what stands out of the surface `behind` at depths_m (near, far), within `search` of the
    box's size, and is of its size within `tolerance`; None where there is no such thing, or, if it must be `whole`, something nearer
    is beside it.
    """
    x0, y0, x1, y1 = box
    size = np.array((x1 - x0, y1 - y0))
    w, h = np.ceil(search * size) + 2.0
    rows, columns = glimpse.window(np.array((x0 - w, y0 - h, x1 + w, y1 + h)))
    z, (near_m, far_m) = glimpse.nearest_m[rows, columns], depths_m
    mask = (z > near_m) & (z < far_m)
    if not mask.any() or (whole and np.count_nonzero(z <= near_m) > 0.02 * z.size):
        return None
    mask &= standing_out(glimpse, rows, columns, behind)
    _, _, stats, middles = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    fits = np.abs(stats[1:, 2:4] - size).max(1) < tolerance * size.max() + 1.0
    if not fits.any():
        return None
    apart = np.abs(middles[1:] + (columns.start, rows.start) - (box[:2] + box[2:]) / 2).max(1)
    x, y, w, h, _ = stats[1 + int(np.where(fits, apart, np.inf).argmin())]
    if np.count_nonzero(z[y : y + h, x : x + w] <= near_m) > MOSTLY_FREE * w * h:
        return None
    x, y = x + columns.start, y + rows.start
    return np.array((x, y, x + w, y + h), float)


def _own(glimpse: Glimpse, rows: slice, columns: slice, out: np.ndarray) -> np.ndarray | None:
    """uint8: of what stands out, what is as deep as it is large; None where that is too little of the window."""
    if out.size == 0 or np.count_nonzero(out) < MIN_SHARE * out.size:
        return None
    z = glimpse.nearest_m[rows, columns]
    middle = float(np.median(z[out]))
    reach = max(0.03, 0.75 * max(out.shape) * middle / glimpse.K[0, 0])
    return (out & (np.abs(z - middle) < reach)).view(np.uint8)


def _plane_of_most(u: np.ndarray, v: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Coefficients of u, v and 1 of the plane through most of the samples."""
    A = np.column_stack((u, v, np.ones(len(u))))
    triples = np.random.default_rng(0).integers(0, len(u), (40, 3))
    solvable = np.abs(np.linalg.det(A[triples])) > 1.0
    if not solvable.any():
        return np.array((0.0, 0.0, float(np.median(inverse))))
    planes = np.linalg.solve(A[triples[solvable]], inverse[triples[solvable]][..., None])[..., 0]
    off = np.abs(planes @ A.T - inverse)
    tolerance = 0.005 * np.median(inverse) ** 2
    best = off[(off < tolerance).sum(1).argmax()]
    near = best < 2 * tolerance
    return np.linalg.lstsq(A[near], inverse[near], rcond=None)[0]


def corners(glimpse: Glimpse, box: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Up to GRID * GRID small pixels (Nx2) worth following in a box, spread over what `mask` (of the box) leaves."""
    rows, columns = glimpse.window(box)
    h, w = rows.stop - rows.start, columns.stop - columns.start
    if min(h, w) < 3:
        return np.empty((0, 2))
    strength = glimpse.texture[rows, columns]
    if mask is not None:
        strength = strength * mask
    cells = min(GRID, h // 2, w // 2)
    down, across = -(-h // cells), -(-w // cells)  # a cell's size, rounded up
    padded = np.zeros((cells * down, cells * across), np.float32)
    padded[:h, :w] = strength
    flat = padded.reshape(cells, down, cells, across).swapaxes(1, 2).reshape(cells, cells, -1)
    best, peak = flat.argmax(-1), flat.max(-1)
    i, j = np.nonzero(peak > max(MIN_TEXTURE, 0.001 * peak.max()))
    y, x = np.divmod(best[i, j], across)
    return np.column_stack((columns.start + j * across + x, rows.start + i * down + y)).astype(float)


def median(points: np.ndarray) -> np.ndarray:
    """Of each column of NxD, leaving NaN rows out; np.median takes twenty times as long for so few."""
    known = points[points[:, -1] == points[:, -1]]
    return np.sort(known, axis=0)[len(known) // 2] if len(known) else np.full(points.shape[1], np.nan)
