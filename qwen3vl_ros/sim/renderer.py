"""Draws table-top scenes with MuJoCo's renderer, off screen: colour, labels and depth, one pass each.

One model is compiled for all scenes: it only holds the unit meshes and the textures. A scene is a list of drawing
commands written straight into the renderer, so a new scene costs nothing beyond its picture. Knows nothing of truth
or of ROS. Source: MuJoCo's abstract visualization (mjvScene) and OpenGL rendering (mjr_) interfaces.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import cv2
import numpy as np

from qwen3vl_ros.sim.furniture import shelf_parts, sign_parts, world_T_sign
from qwen3vl_ros.sim.household import Asset
from qwen3vl_ros.sim.shading import LAMP_DISTANCE_M
from qwen3vl_ros.sim.shapes import Mesh, Part
from qwen3vl_ros.sim.specs import COLOURS, MORE_TABLE_TEXTURES, TABLE_TEXTURES, ObjectSpec, SceneSpec
from qwen3vl_ros.sim.textures import GAUGE_TEXTURE_PX, SIGN_TEXTURE_PX, gauge_face, sign_face, table_texture
from qwen3vl_ros.sim.truth import (
    dial_size_m,
    face_side_m,
    foot_size_m,
    world_T_case,
    world_T_dial,
    world_T_foot,
    world_T_object,
)
from qwen3vl_ros.types import InvalidInput, PerceptionError


class SimCameraError(PerceptionError):
    """The embedded camera cannot draw on this machine; the message says what to install."""


_REMEDY = "On Debian or Ubuntu: apt-get install libegl1 libopengl0 libgl1-mesa-dri"
if sys.platform.startswith("linux"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported
try:
    import mujoco
except ModuleNotFoundError as error:
    raise SimCameraError(f"the embedded camera needs MuJoCo: pip install mujoco ({error})") from error
except (ImportError, AttributeError, OSError) as error:
    # PyOpenGL without the system's library fails with whatever comes first.
    raise SimCameraError(
        f"MuJoCo cannot load OpenGL (MUJOCO_GL={os.environ.get('MUJOCO_GL')}): {error}. {_REMEDY}"
    ) from error
if tuple(int(n) for n in mujoco.__version__.split(".")[:2]) < (3, 17):
    raise SimCameraError(
        f"the embedded camera needs MuJoCo 3.17 or later, found {mujoco.__version__}: pip install --upgrade mujoco"
    )

NEAR_M, FAR_M = 0.05, 12.0
_FLOOR_M = -0.72
# Segmentation ids of what is not an object; below 255 so that one byte decodes them.
TABLE, ROOM, ROBOT = 200, 201, 202
_LAMP_MAP_PX = 288


def _context_class():
    # mujoco.GLContext was chosen when mujoco was first imported, perhaps by someone without MUJOCO_GL.
    if os.environ.get("MUJOCO_GL", "").lower() == "egl":
        from mujoco.egl import GLContext

        return GLContext
    return mujoco.GLContext


class Renderer:
    """Pictures of one size through one vertical field of view. Use it from the thread that made it.

    samples: antialiasing of the colour pictures. Raises SimCameraError where OpenGL cannot be had.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fovy_deg: float,
        samples: int,
        meshes: dict[str, Mesh],
        assets: Mapping[str, Asset] = MappingProxyType({}),
    ):
        self.width, self.height = width, height
        self._half_at_near = NEAR_M * np.tan(np.deg2rad(fovy_deg) / 2)
        self._gl = self._context = None
        self._assets = assets
        parts = {f"{name}/{i}": part for name, asset in assets.items() for i, part in enumerate(asset.parts)}
        self._meshes = {n: m for n, m in meshes.items() if n not in assets} | {n: p.mesh for n, p in parts.items()}
        self._skins = {name: part.texture for name, part in parts.items() if part.texture is not None}
        self._model = self._compile(samples)
        self._painted = dict(gauge=None, sign=None)  # what the textures of dial and sign show
        self._open()

    @property
    def closed(self) -> bool:
        return self._context is None

    def close(self) -> None:
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
            self._context = None
        if self._gl is not None:
            self._gl.free()
            self._gl = None

    def begin(self, spec: SceneSpec, robot: Iterable[Part] = ()) -> None:
        """Take the thread's OpenGL context and write the scene's drawing commands, what casts shadows first. robot: parts whose
        meshes the renderer was made with.
        """
        self._gl.make_current()
        self._scene.ngeom = 0
        for index, thing in enumerate(spec.objects):
            if thing.asset is not None:
                self._add_asset(thing, index)
                continue
            gloss = {"mug": 0.5, "bowl": 0.5, "ball": 0.45}.get(thing.kind, 0.25)
            self._add_mesh(
                thing.kind, world_T_object(thing), thing.size_m, thing.rgb, index, specular=gloss, shininess=0.55
            )
        if spec.gauge is not None:
            self._add_gauge(spec)
        if spec.shelf is not None:
            for pose, size in shelf_parts(spec.shelf):
                self._add_block(pose, size, spec.shelf.rgb, spec.shelf_index, specular=0.15)
        if spec.sign is not None:
            self._add_sign(spec)
        for part in robot:
            self._add_mesh(part.mesh, part.pose, (1, 1, 1), part.rgb, ROBOT, specular=0.3, shininess=0.5)
        self._casters = self._scene.ngeom
        self._add_room(spec)

    def _compile(self, samples: int) -> mujoco.MjModel:
        spec = mujoco.MjSpec()
        spec.visual.global_.offwidth, spec.visual.global_.offheight = self.width, self.height
        spec.visual.quality.shadowsize, spec.visual.quality.offsamples = 0, samples
        spec.stat.extent = 1.0
        spec.stat.center = (0.0, 0.0, 0.0)
        for name, mesh in self._meshes.items():
            m = spec.add_mesh(name=name)
            m.uservert = mesh.vertices.ravel()
            m.userface = mesh.faces.ravel()
            m.usernormal = mesh.normals.ravel()
            m.userfacenormal = mesh.faces.ravel()
            m.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
            if mesh.uv is not None:
                m.usertexcoord = mesh.uv.ravel()
                m.userfacetexcoord = mesh.faces.ravel()
            spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name)
        pictures = {name: table_texture(name) for name in TABLE_TEXTURES + MORE_TABLE_TEXTURES}
        pictures |= {name: skin[::-1] for name, skin in self._skins.items()}  # MuJoCo's uv of files runs downwards
        pictures["gauge"] = np.full((GAUGE_TEXTURE_PX, GAUGE_TEXTURE_PX, 3), 255, np.uint8)
        pictures["sign"] = np.full((*SIGN_TEXTURE_PX[::-1], 3), 255, np.uint8)
        for name, picture in pictures.items():
            spec.add_texture(
                name=name,
                type=mujoco.mjtTexture.mjTEXTURE_2D,
                width=picture.shape[1],
                height=picture.shape[0],
                builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
            )
            material = spec.add_material(name=name)
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        model = spec.compile()
        self._mesh_id = {name: model.mesh(name).id for name in self._meshes}
        self._material_id = {name: model.mat(name).id for name in pictures}
        self._texture_id = {name: model.tex(name).id for name in pictures}
        for name, picture in pictures.items():
            self._write_texture(model, name, picture)
        # MuJoCo turns every mesh into its inertia frame; these undo that when drawing.
        self._mesh_pose = {}
        for name, i in self._mesh_id.items():
            rotation = np.zeros(9)
            mujoco.mju_quat2Mat(rotation, model.mesh_quat[i])
            self._mesh_pose[name] = (rotation.reshape(3, 3), model.mesh_pos[i].copy())
        return model

    def _write_texture(self, model: mujoco.MjModel, name: str, picture: np.ndarray) -> None:
        i = self._texture_id[name]
        start = model.tex_adr[i]
        # OpenGL's first row is the bottom one.
        model.tex_data[start : start + picture.size] = picture[::-1].ravel()

    def _open(self) -> None:
        try:
            self._gl = _context_class()(self.width, self.height)
            self._gl.make_current()
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except (ImportError, AttributeError, OSError, RuntimeError, mujoco.FatalError) as error:
            reason = str(error).rstrip(".")
            raise SimCameraError(
                f"the embedded camera could not open an off-screen OpenGL context (MUJOCO_GL="
                f"{os.environ.get('MUJOCO_GL', 'unset')}): {reason}. {_REMEDY}"
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._rect = mujoco.MjrRect(0, 0, self.width, self.height)
        self._scene = mujoco.MjvScene(self._model, maxgeom=256)
        self._scene.flags[:] = 0

    def aim(self, world_T_camera: np.ndarray) -> None:
        """Look from world_T_camera (4x4, ROS optical frame) in the passes that follow."""
        half = self._half_at_near
        for camera in self._scene.camera:
            camera.pos = world_T_camera[:3, 3]
            camera.forward = world_T_camera[:3, 2]
            camera.up = -world_T_camera[:3, 1]
            camera.orthographic = 0
            camera.frustum_bottom, camera.frustum_top = -half, half
            camera.frustum_center, camera.frustum_width = 0.0, half * self.width / self.height
            camera.frustum_near, camera.frustum_far = NEAR_M, FAR_M

    def _add(self, kind, size, position, rotation, rgb, segment: int, **look):
        geom = self._scene.geoms[self._scene.ngeom]
        mujoco.mjv_initGeom(
            geom,
            kind,
            np.asarray(size, float),
            np.asarray(position, float),
            np.asarray(rotation, float).reshape(9),
            np.array((*rgb, 1.0), np.float32),
        )
        geom.segid = segment
        geom.category = mujoco.mjtCatBit.mjCAT_STATIC
        geom.specular, geom.shininess = look.get("specular", 0.0), look.get("shininess", 0.3)
        geom.emission = look.get("emission", 0.0)
        self._scene.ngeom += 1
        return geom

    def _add_mesh(self, name, pose, size, rgb, segment: int, **look):
        rotation, origin = self._mesh_pose[name]
        stretched = pose[:3, :3] * np.asarray(size)
        geom = self._add(
            mujoco.mjtGeom.mjGEOM_MESH,
            np.ones(3),
            pose[:3, 3] + stretched @ origin,
            stretched @ rotation,
            rgb,
            segment,
            **look,
        )
        geom.dataid = 2 * self._mesh_id[name]
        return geom

    def _add_asset(self, thing: ObjectSpec, segment: int) -> None:
        if thing.asset not in self._assets:
            raise InvalidInput(
                f"household object {thing.asset!r} is not installed; there are: {', '.join(self._assets)}"
            )
        for i, part in enumerate(self._assets[thing.asset].parts):
            name = f"{thing.asset}/{i}"
            geom = self._add_mesh(name, world_T_object(thing), thing.size_m, part.rgb, segment, specular=0.2)
            if name in self._skins:
                self._texture(geom, name)
                geom.texcoord = 1

    def _add_room(self, spec: SceneSpec) -> None:
        table, box = spec.table, mujoco.mjtGeom.mjGEOM_BOX
        c, s = np.cos(table.yaw_rad), np.sin(table.yaw_rad)
        turn = np.array(((c, -s, 0), (s, c, 0), (0, 0, 1.0)))
        hx, hy = table.half_size_m
        top = self._add(
            mujoco.mjtGeom.mjGEOM_PLANE, (hx, hy, 0.1), (0, 0, 0), turn, table.rgb, TABLE, specular=0.12, shininess=0.25
        )
        self._texture(top, table.texture, (2 * hx * table.tiles_per_m, 2 * hy * table.tiles_per_m))
        edge = np.multiply(table.rgb, 0.8)
        self._add(box, (hx, hy, 0.0175), (0, 0, -0.0180), turn, edge, ROOM)
        for x in (-0.92, 0.92):
            for y in (-0.9, 0.9):
                at = turn @ (x * hx, y * hy, (_FLOOR_M - 0.035) / 2)
                self._add(box, (0.025, 0.025, -(_FLOOR_M + 0.035) / 2), at, turn, edge, ROOM)
        wall = np.asarray(spec.background_rgb)
        self._add(box, (3, 3, 0.01), (0, 0, _FLOOR_M - 0.01), np.eye(3), wall * (0.62, 0.60, 0.58), ROOM)
        for x, y, sx, sy in ((3, 0, 0.01, 3), (-3, 0, 0.01, 3), (0, 3, 3, 0.01), (0, -3, 3, 0.01)):
            self._add(box, (sx, sy, 2), (x, y, _FLOOR_M + 2), np.eye(3), wall, ROOM)

    def _texture(self, geom, name: str, repeat=(1.0, 1.0)) -> None:
        geom.matid = self._material_id[name]
        if hasattr(geom, "texid"):
            geom.texid = self._texture_id[name]
        geom.texuniform = 0
        geom.texrepeat = np.asarray(repeat, np.float32)

    def _add_gauge(self, spec: SceneSpec) -> None:
        gauge, segment = spec.gauge, len(spec.objects)
        self._paint("gauge", gauge, gauge_face)
        rim = dict(rgb=COLOURS[gauge.colour], segment=segment, specular=0.5, shininess=0.6)
        self._add_mesh("drum", world_T_case(gauge), dial_size_m(gauge), **rim)
        self._add_mesh("cube", world_T_foot(gauge), foot_size_m(gauge), **rim)
        face = world_T_dial(gauge)
        face[:3, 3] += 0.0012 * face[:3, 2]
        disc = self._add_mesh("disc", face, (face_side_m(gauge),) * 2 + (0.01,), (1, 1, 1), segment, emission=0.15)
        self._texture(disc, "gauge")
        disc.texcoord = 1

    def _add_sign(self, spec: SceneSpec) -> None:
        sign, segment = spec.sign, spec.sign_index
        self._paint("sign", sign, sign_face)
        for pose, size in sign_parts(sign):
            self._add_block(pose, size, np.multiply(COLOURS[sign.colour], 0.85), segment, specular=0.2)
        face = world_T_sign(sign)
        face[:3, 3] += 0.001 * face[:3, 2]
        plate = self._add_mesh("plate", face, (*sign.size_m, 0.01), (1, 1, 1), segment, emission=0.08)
        self._texture(plate, "sign")
        plate.texcoord = 1

    def _add_block(self, pose, size, rgb, segment: int, **look) -> None:
        box = mujoco.mjtGeom.mjGEOM_BOX
        self._add(box, np.asarray(size) / 2, pose[:3, 3], pose[:3, :3], rgb, segment, **look)

    def _paint(self, texture: str, thing, face) -> None:
        """Write face(thing) into a texture, if it does not show that already."""
        if thing != self._painted[texture]:
            self._write_texture(self._model, texture, face(thing))
            mujoco.mjr_uploadTexture(self._model, self._context, self._texture_id[texture])
            self._painted[texture] = thing

    def _set_lights(self, spec: SceneSpec, key: bool) -> None:
        """The fill light with the ambient term, and the key light (the lamp) if asked for."""
        light = spec.light
        tint = np.array((1 + 0.05 * light.warmth, 1.0, 1 - 0.07 * light.warmth))
        forward = np.array(self._scene.camera[0].forward)
        self._light(
            self._scene.lights[0], (forward[0], forward[1], -0.7), light.fill * np.ones(3), light.ambient * tint, 0.0
        )
        self._light(self._scene.lights[1], light.direction, light.intensity * tint, np.zeros(3), 0.5)
        self._scene.nlight = 2 if key else 1

    @staticmethod
    def _light(light, direction, diffuse, ambient, gloss: float) -> None:
        direction = np.asarray(direction) / np.linalg.norm(direction)
        light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        light.pos, light.dir = -2.0 * direction, direction
        light.diffuse, light.ambient, light.specular = diffuse, ambient, gloss * np.asarray(diffuse)
        light.attenuation = (1.0, 0.0, 0.0)
        light.cutoff, light.exponent = 45.0, 10.0
        light.headlight = light.castshadow = 0

    def draw_lamp_depth(self, world_T_lamp: np.ndarray, half_m: float) -> np.ndarray:
        """nxn float32 orthographic depth of what casts shadows within half_m of the work area, 0 where nothing does.

        Call `aim` after it.
        """
        n = min(_LAMP_MAP_PX, self.width, self.height)
        near, far = 0.1, 2 * LAMP_DISTANCE_M
        for camera in self._scene.camera:
            camera.pos, camera.forward = world_T_lamp[:3, 3], world_T_lamp[:3, 2]
            camera.up = -world_T_lamp[:3, 1]
            camera.orthographic = 1
            camera.frustum_bottom, camera.frustum_top = -half_m, half_m
            camera.frustum_center, camera.frustum_width = 0.0, half_m
            camera.frustum_near, camera.frustum_far = near, far
        everything, self._scene.ngeom = self._scene.ngeom, self._casters
        _, window = self._draw_ids(mujoco.MjrRect(0, 0, n, n), depth=True)
        self._scene.ngeom = everything
        return np.where(window > 0, far - window * np.float32(far - near), np.float32(0))

    def _draw_ids(self, rect, depth: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Segmentation ids + 1 (0: nothing drawn) and the depth window, top row first."""
        flags = self._scene.flags
        flags[:] = 0
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        mujoco.mjr_render(rect, self._scene, self._context)
        ids = np.empty((rect.height, rect.width, 3), np.uint8)
        window = np.empty((rect.height, rect.width), np.float32) if depth else None
        mujoco.mjr_readPixels(ids, window, rect, self._context)
        return ids[::-1, :, 0], None if window is None else window[::-1]

    def draw_labels(self, depth: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """(HxW int16 index of the object or TABLE or ROOM, -1 for nothing; HxW float32 depth in metres)."""
        ids, window = self._draw_ids(self._rect, depth)
        labels = ids.astype(np.int16) - 1
        if window is not None:
            # Reversed z: the window holds near (far - z) / (z (far - near)), and 0 where nothing was drawn.
            depth_m = np.float32(NEAR_M * FAR_M) / (np.float32(NEAR_M) + window * np.float32(FAR_M - NEAR_M))
            depth_m[window <= 0] = 0.0
            window = depth_m
        return labels, window

    def draw_colour(self, spec: SceneSpec, key: bool) -> np.ndarray:
        """HxWx3 uint8 without shadows, under the ambient and fill light and, if asked for, the key light."""
        self._set_lights(spec, key)
        self._scene.flags[:] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_CULL_FACE] = 1
        mujoco.mjr_render(self._rect, self._scene, self._context)
        picture = np.empty((self.height, self.width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._rect, self._context)
        return cv2.flip(picture, 0)
