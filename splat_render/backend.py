"""One call for every backend, and which one to take on this machine."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
from jaxtyping import Array, Int

from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.registry import Registry
from splat_render.types import Background, BodyPoses, CameraBatch, Frame, GaussianSet, RasterConfig


class Rasterize(Protocol):
    """Draw splats: the one function a backend consists of."""

    def __call__(
        self,
        splats: GaussianSet,
        poses: BodyPoses,
        cameras: CameraBatch,
        config: RasterConfig,
        background: Background | None = None,
        look: Int[Array, "*n"] | None = None,
    ) -> Frame:
        """Return the pictures of C cameras in each of worlds [*n].

        Args:
            splats: unbatched; shared by all worlds.
            poses: of all bodies, [*n, B, ...].
            cameras: [*n, C, ...], the same [*n] as `poses` (none for one world).
            config: static.
            background: behind and in front of the splats; None draws `config.color` behind them.
            look: which of the background's V looks each world has; None is 0 everywhere.

        Where it is traceable it can be jitted, scanned and vmapped over everything but `splats`
        and `background`; vmap gives what a loop gives.
        """
        ...


class Backend(Protocol):
    """A module in `splat_render.backends`: what it is, whether it runs here, and its function."""

    @property
    def TRACEABLE(self) -> bool:
        """Whether it may be called under jit."""
        ...

    @property
    def DIFFERENTIABLE(self) -> bool:
        """Whether it is, with respect to splats, poses and cameras."""
        ...

    @property
    def rasterize(self) -> Rasterize:
        """What draws."""
        ...

    def unavailable(self) -> str | None:
        """Return why it cannot run here and what to do about it, in one line; None where it can."""
        ...


# Best first. The reference is for tests; gsplat cannot be traced, so it is asked for by name.
_ORDER = {"cpu": ("cpu", "xla"), "gpu": ("splax", "xla"), "tpu": ("xla",)}


class BackendError(InputError):
    """A backend that cannot run here; the message is one line and says what to do."""


@dataclass(frozen=True)
class Chosen:
    """A backend by its name.

    Attributes:
        name: in `splat_render.backends`.
        backend: the module.
    """

    name: str
    backend: Backend


# Functions that import a backend's module: some need packages that most machines do not have.
BACKENDS: Registry[Callable[[], Backend]] = Registry("render backend")


@BACKENDS.register("reference")
def _reference() -> Backend:
    from splat_render.backends import reference

    return reference


@BACKENDS.register("xla")
def _xla() -> Backend:
    from splat_render.backends import xla

    return xla


@BACKENDS.register("cpu")
def _cpu() -> Backend:
    from splat_render.backends import cpu

    return cpu


@BACKENDS.register("gsplat")
def _gsplat() -> Backend:
    from splat_render.backends import gsplat

    return gsplat


@BACKENDS.register("splax")
def _splax() -> Backend:
    from splat_render.backends import splax

    return splax


def backend_names() -> tuple[str, ...]:
    """Return every backend, available or not."""
    return tuple(BACKENDS)


def require_backend(name: str) -> None:
    """Raise KeyError, with the allowed names, for what is neither a backend nor "auto"."""
    if name not in (*BACKENDS, "auto"):
        raise UnknownNameError(unknown_name("render backend", name, (*BACKENDS, "auto")))


def load_backend(name: str) -> Backend:
    """Return the module of a backend; raises KeyError with the allowed names."""
    require_backend(name)
    return BACKENDS[name]()


def choose_backend(name: str = "auto") -> Chosen:
    """Return the backend asked for, or for "auto" the fastest traceable one that runs here.

    Raises KeyError for an unknown name and BackendError for one that cannot run here.
    """
    if name != "auto":
        backend = load_backend(name)
        reason = backend.unavailable()
        if reason is not None:
            raise BackendError(f"Render backend '{name}' cannot run here: {reason}")
        return Chosen(name, backend)
    *faster, last = _ORDER.get(jax.default_backend(), ("xla",))
    for candidate in faster:
        backend = load_backend(candidate)
        reason = backend.unavailable()
        if reason is None:
            return Chosen(candidate, backend)
        warnings.warn(
            f"pictures are drawn by '{last}', not by '{candidate}': {reason}", stacklevel=2
        )
    return Chosen(last, load_backend(last))


def availability() -> dict[str, str | None]:
    """Return why each backend cannot run here; None where it can. For `make doctor` and errors."""
    return {name: load_backend(name).unavailable() for name in BACKENDS}
