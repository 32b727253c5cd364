"""The part of a sensor's picture that a policy sees, where a person chooses it."""

import math
from typing import NamedTuple

import numpy as np

from robot_bridge.cameras.camera import Camera, CameraError, Intrinsics, Picture
from scenes.contract.errors import InputError
from scenes.contract.specs import CameraSpec


class Crop(NamedTuple):
    """A part of a picture: left and upper edge, width and height [px]."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return ",".join(map(str, self))

    def inside(self, width: int, height: int) -> bool:
        """Whether it lies in a picture of this size [px]."""
        fits = self.x + self.width <= width and self.y + self.height <= height
        return min(self.x, self.y) >= 0 and min(self.width, self.height) >= 1 and fits


def check_crop(crop: Crop, camera: CameraSpec, size: tuple[int, int] | None) -> None:
    """Raise InputError for what a policy cannot be shown.

    Args:
        crop: of the sensor's picture.
        camera: whose place it takes.
        size: width and height of the sensor's picture [px], None where it is not known yet.
    """
    if not crop.inside(*(size or (crop.x + crop.width, crop.y + crop.height))):
        whole = "" if size is None else f", which is {size[0]} x {size[1]} px (--size)"
        raise InputError(
            f"Crop {crop} of camera '{camera.name}' leaves the picture{whole}; allowed: "
            "X,Y,WIDTH,HEIGHT inside it"
        )
    # As near as whole pixels come.
    if abs(crop.width - crop.height * camera.width / camera.height) >= 1.0:
        share = math.gcd(camera.width, camera.height)
        square = camera.width == camera.height
        shape = "square" if square else f"{camera.width // share} to {camera.height // share}"
        side = min(crop.width / camera.width, crop.height / camera.height)
        fit = Crop(crop.x, crop.y, round(side * camera.width), round(side * camera.height))
        raise InputError(
            f"Crop {crop} of camera '{camera.name}' would be squeezed: the policy's picture is "
            f"{shape} ({camera.width} x {camera.height} px); allowed: for example {fit}"
        )


class CroppedCamera:
    """A camera of which only a part is shown, as all that the policy's camera spans.

    Args:
        camera: what is cut.
        crop: what is left of it.
        spec: of the policy's camera.
    """

    def __init__(self, camera: Camera, crop: Crop, spec: CameraSpec) -> None:
        self._camera, self._crop = camera, crop
        self._name = spec.name
        # Whatever the lens, the picture's edges are those of the policy's.
        half = math.tan(math.radians(spec.fovy) / 2)
        fy, fx = crop.height / 2 / half, crop.width / 2 / half * spec.height / spec.width
        self.intrinsics: Intrinsics = (fx, fy, crop.width / 2, crop.height / 2)

    def open(self) -> None:
        """Open the camera and look at one picture; CameraError where the crop leaves it."""
        self._camera.open()
        try:
            self.read()
        except CameraError:
            self._camera.close()
            raise

    def read(self) -> tuple[Picture, float]:
        """Wait for the next picture [height, width, 3] and its time [s]."""
        rgb, t = self._camera.read()
        crop, (height, width) = self._crop, rgb.shape[:2]
        if not crop.inside(width, height):
            raise CameraError(
                f"Crop {crop} of camera '{self._name}' leaves the picture, which is {width} x "
                f"{height} px"
            )
        part = rgb[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        return np.ascontiguousarray(part), t

    def close(self) -> None:
        """Stop."""
        self._camera.close()
