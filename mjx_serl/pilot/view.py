"""The piloted world in three dimensions: splats, cameras, contact forces, where the tool is and was
sent to.
"""

import numpy as np

from mjx_serl.pilot.contacts import ContactForces
from mjx_serl.viewing.browser import SplatBodies
from mjx_serl.viewing.live_world import LiveWorld
from scenes.contract.extras import require
from scenes.contract.local_page import HOST
from scenes.contract.rotations import multiply_quats
from scenes.contract.specs import CameraSpec

PORT = 8021
# A MuJoCo camera looks along -z with +y up, viser's along +z with +y down: half a turn about x.
_TURNED = np.array([0.0, 1.0, 0.0, 0.0])
_SCALE = 0.06  # of a camera's frustum [m]
_FORCES, _MAGENTA = "/contact forces", (236, 64, 196)
_ARROW = {"shaft_radius": 0.002, "head_radius": 0.005, "head_length": 0.01}  # [m]
_AXES = {"measured": 0.06, "target": 0.09}  # lengths [m]


class WorldView:
    """A viser page that shows a world.

    Attributes:
        url: its address, on this machine only; anyone with it may look.

    Args:
        world: which one, or one like those that are shown.
        port: to serve on; the next free one if it is taken.

    Raises MissingPackageError without viser.
    """

    def __init__(self, world: LiveWorld, *, port: int = PORT) -> None:
        viser = require("viser", "viz", purpose="The view in three dimensions")
        self._server = viser.ViserServer(host=HOST, port=port, label=world.env.name, verbose=False)
        self.url = f"http://{HOST}:{self._server.get_port()}"
        self._server.gui.configure_theme(show_share_button=False, show_logo=False)
        scene = self._server.scene
        scene.set_up_direction("+z")
        self._server.initial_camera.position = (1.3, -1.0, 0.8)
        self._server.initial_camera.look_at = (0.3, 0.0, 0.2)
        self._bodies = SplatBodies(scene, world.splats())
        model, spec = world.env.scene.model, world.env.scene.spec
        for camera in spec.cameras:
            body = 0 if camera.body is None else int(model.body(camera.body).id)
            self._bodies.add_frame(scene, body)
            _add_frustum(scene, camera, body)
        self._marks = {
            name: scene.add_frame(f"/{name}", axes_length=_AXES[name], axes_radius=0.002)
            for name in world.places()
        }
        self._contacts = ContactForces(model)
        self._ticked = self._server.gui.add_checkbox("contact forces", initial_value=True)

    def show(self, world: LiveWorld) -> None:
        """Bring the page up to date, all of it at once; nothing while nobody has it open."""
        if not self._server.get_clients():
            return
        (xpos, xquat), places = world.poses(), world.places()
        sim = world.sim() if self._ticked.value else None
        arrows = np.zeros((0, 2, 3)) if sim is None else self._contacts.arrows(sim)
        with self._server.atomic():
            self._bodies.move(xpos, xquat)
            for name, mark in self._marks.items():
                mark.position, mark.wxyz = places[name]
            self._server.scene.add_arrows(_FORCES, points=arrows, colors=_MAGENTA, **_ARROW)

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()


def _add_frustum(scene: object, camera: CameraSpec, body: int) -> None:
    scene.add_camera_frustum(  # pyright: ignore[reportAttributeAccessIssue]
        f"/body_{body}/{camera.name}",
        fov=np.radians(camera.fovy),
        aspect=camera.width / camera.height,
        scale=_SCALE,
        color=(138, 180, 248),
        wxyz=multiply_quats(np.asarray(camera.quat), _TURNED),
        position=camera.pos,
    )
