"""Photographs of a model by MuJoCo's own renderer, for splats to be fitted to and measured by.

The drawn geoms of one or several compiled models stand in the light of our scenes
(`scenes.mjcf.light_scene`), each body where it is told. Needs an off-screen GL (EGL or OSMesa).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float, Int, UInt8

from scenes.contract.errors import InputError
from scenes.mjcf import light_scene
from splat_render.assets.surface import drawn_geoms, geom_rgba
from splat_render.cameras import axes_towards, intrinsics

_CAMERA = "eye"
# MuJoCo's cameras look along -z with +y up, OpenCV's along +z with +y down.
_OPENCV = np.array([1.0, -1.0, -1.0])


@dataclass(frozen=True, kw_only=True)
class Eye:
    """A camera in the world.

    Attributes:
        position: [m].
        target: in the centre of its picture [m]; +z is up.
        fovy: vertical [deg].
    """

    position: Float[np.ndarray, " 3"]
    target: Float[np.ndarray, " 3"]
    fovy: float = 45.0

    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Return the directions right, up and back as columns."""
        return axes_towards(self.position, self.target)

    def viewmat(self) -> Float[np.ndarray, "4 4"]:
        """Return world to camera, OpenCV's axes."""
        rotation = (self.axes() * _OPENCV).T
        result = np.eye(4)
        result[:3, :3], result[:3, 3] = rotation, -rotation @ self.position
        return result


@dataclass(frozen=True, eq=False, kw_only=True)
class Photos:
    """V pictures.

    Attributes:
        rgb: uint8.
        alpha: share of a pixel that the chosen bodies cover, times 255.
        viewmats: world to camera (OpenCV).
        Ks: intrinsics [px].
        xpos: of the bodies [m].
        xquat: of the bodies (wxyz).
    """

    rgb: UInt8[np.ndarray, "V S S 3"]
    alpha: UInt8[np.ndarray, "V S S"]
    viewmats: Float[np.ndarray, "V 4 4"]
    Ks: Float[np.ndarray, "V 3 3"]
    xpos: Float[np.ndarray, "V B 3"]
    xquat: Float[np.ndarray, "V B 4"]

    def __len__(self) -> int:
        return len(self.rgb)


class Studio:
    """Bodies of models, by name, before a camera; close it after use."""

    def __init__(
        self,
        models: Sequence[tuple[mujoco.MjModel, Collection[str]]],
        *,
        size: int,
        oversample: int = 2,
        sky: bool = True,
    ):
        """Take the named bodies of each model.

        Args:
            models: compiled.
            size: of the pictures, wide and high [px].
            oversample: how many times larger along each axis they are drawn and then averaged.
            sky: whether it is behind them, or black.
        """
        builder = mujoco.MjSpec()
        light_scene(builder)
        self.size, self.factor, drawn = size, oversample, size * oversample
        builder.visual.global_.offwidth = builder.visual.global_.offheight = drawn
        builder.worldbody.add_camera(name=_CAMERA)
        for number, (model, names) in enumerate(models):
            for name in names:
                _add_body(builder, model, name, mark=f"{number}/")
        self.model = builder.compile()
        self.data = mujoco.MjData(self.model)
        try:
            self._renderer = mujoco.Renderer(self.model, drawn, drawn)
        except Exception as error:  # each GL has errors of its own
            raise InputError(
                f"no off-screen GL here ({type(error).__name__}); set MUJOCO_GL=egl or osmesa, "
                "make doctor says which one works"
            ) from error
        if not sky:
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 0

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer.close()

    def photograph(
        self,
        eyes: Sequence[Eye],
        placed: Sequence[tuple[mujoco.MjModel, mujoco.MjData]],
        bodies: Sequence[str],
    ) -> Photos:
        """Return one picture per eye.

        Args:
            eyes: cameras.
            placed: models with their poses, one for each eye; every body of the studio takes the
                pose of the body of its name.
            bodies: that `Photos.alpha` shows, in the order of its poses.
        """
        camera, K = self.model.camera(_CAMERA).id, None
        rgb, alpha, xpos, xquat = [], [], [], []
        shown = np.isin(self.model.geom_bodyid, [self.model.body(name).id for name in bodies])
        for eye, (model, data) in zip(eyes, placed, strict=True):
            self._place(model, data)
            self.model.cam_pos[camera], self.model.cam_fovy[camera] = eye.position, eye.fovy
            mujoco.mju_mat2Quat(self.model.cam_quat[camera], eye.axes().ravel())
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_camlight(self.model, self.data)
            picture, mask = self._draw(shown)
            rgb.append(picture)
            alpha.append(mask)
            ids = [model.body(name).id for name in bodies]
            xpos.append(data.xpos[ids])
            xquat.append(data.xquat[ids])
        K = [intrinsics(eye.fovy, self.size, self.size) for eye in eyes]
        return Photos(
            rgb=np.stack(rgb),
            alpha=np.stack(alpha),
            viewmats=np.stack([eye.viewmat() for eye in eyes]),
            Ks=np.stack(K),
            xpos=np.stack(xpos),
            xquat=np.stack(xquat),
        )

    def _place(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for body in range(1, self.model.nbody):
            theirs = model.body(self.model.body(body).name).id
            row = self.model.body_mocapid[body]
            self.data.mocap_pos[row], self.data.mocap_quat[row] = (
                data.xpos[theirs],
                data.xquat[theirs],
            )

    def _draw(self, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._renderer.update_scene(self.data, camera=_CAMERA)
        # A copy, for the second picture is drawn into the same memory.
        picture = self._averaged(self._renderer.render().astype(np.float32))
        self._renderer.enable_segmentation_rendering()
        segments: Int[np.ndarray, "H W 2"] = self._renderer.render()
        self._renderer.disable_segmentation_rendering()
        geoms = segments[..., 0]
        # int: numpy compares with an enum of MuJoCo's one by one.
        is_geom = segments[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM)
        mask = is_geom & np.append(shown, False)[np.where(is_geom, geoms, -1)]
        return picture, self._averaged(np.float32(255) * mask)

    def _averaged(self, picture: np.ndarray) -> np.ndarray:
        # Slice by slice: the mean over two axes of blocks takes numpy longer than GL the picture.
        steps, factor = range(self.factor), self.factor
        total = sum(picture[row::factor, column::factor] for row in steps for column in steps)
        return np.round(total / factor**2).astype(np.uint8)


def _add_body(builder: mujoco.MjSpec, model: mujoco.MjModel, name: str, *, mark: str) -> None:
    """Add a body of a compiled model with what is drawn of it: colours and flat textures."""
    body = model.body(name).id
    geoms = [geom for geom in drawn_geoms(model) if model.geom_bodyid[geom] == body]
    target = builder.worldbody if body == 0 else builder.worldbody.add_body(name=name, mocap=True)
    for geom in geoms:
        material = builder.add_material(name=f"{mark}{geom}", rgba=geom_rgba(model, geom))
        which = model.geom_matid[geom]
        if which >= 0:
            material.specular, material.shininess = (
                model.mat_specular[which],
                model.mat_shininess[which],
            )
            material.emission = model.mat_emission[which]
            _add_texture(builder, model, int(which), material)
        kind = mujoco.mjtGeom(model.geom_type[geom])
        settings: dict[str, object] = {"size": model.geom_size[geom]}
        if kind == mujoco.mjtGeom.mjGEOM_MESH:
            settings = {"meshname": _mesh_of(builder, model, int(model.geom_dataid[geom]), mark)}
        target.add_geom(
            type=kind,
            pos=model.geom_pos[geom],
            quat=model.geom_quat[geom],
            material=material.name,
            contype=0,
            conaffinity=0,
            mass=0,
            **settings,
        )


def _add_texture(
    builder: mujoco.MjSpec, model: mujoco.MjModel, which: int, material: mujoco.MjsMaterial
) -> None:
    """Give a material the flat texture that a compiled model's material has, if any."""
    texture = int(model.mat_texid[which, mujoco.mjtTextureRole.mjTEXROLE_RGB])
    if texture < 0 or model.tex_type[texture] != mujoco.mjtTexture.mjTEXTURE_2D:
        return
    height, width, channels = (
        int(x[texture]) for x in (model.tex_height, model.tex_width, model.tex_nchannel)
    )
    first = int(model.tex_adr[texture])
    added = builder.add_texture(
        name=material.name,
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        height=height,
        width=width,
        nchannel=channels,
    )
    added.data = model.tex_data[first : first + height * width * channels].tobytes()
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = material.name
    material.texrepeat, material.texuniform = (
        model.mat_texrepeat[which],
        bool(model.mat_texuniform[which]),
    )


def _mesh_of(builder: mujoco.MjSpec, model: mujoco.MjModel, mesh: int, mark: str) -> str:
    """Add a mesh of a compiled model with its normals; returns its name."""
    name = f"{mark}mesh{mesh}"
    rows = {
        kind: slice(int(first[mesh]), int(first[mesh] + count[mesh]))
        for kind, first, count in (
            ("vert", model.mesh_vertadr, model.mesh_vertnum),
            ("face", model.mesh_faceadr, model.mesh_facenum),
            ("normal", model.mesh_normaladr, model.mesh_normalnum),
        )
    }
    if all(made.name != name for made in builder.meshes):
        builder.add_mesh(
            name=name,
            uservert=model.mesh_vert[rows["vert"]].ravel(),
            userface=model.mesh_face[rows["face"]].ravel(),
            usernormal=model.mesh_normal[rows["normal"]].ravel(),
            userfacenormal=model.mesh_facenormal[rows["face"]].ravel(),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        )
    return name


def around(
    rng: np.random.Generator,
    count: int,
    target: Mapping[str, tuple[float, float]] | None = None,
) -> list[Eye]:
    """Return cameras on all sides above the table, most as far as a scene's own, some close."""
    span = target or {"x": (0.1, 0.5), "y": (-0.15, 0.15), "z": (0.1, 0.5)}
    eyes = []
    for i in range(count):
        at = np.array([rng.uniform(*span[axis]) for axis in "xyz"])
        turn, height = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(5, 70))
        away = np.array(
            [np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)]
        )
        distance = rng.uniform(0.35, 0.7) if i % 4 == 0 else rng.uniform(0.9, 1.5)
        eyes.append(Eye(position=at + distance * away, target=at))
    return eyes
