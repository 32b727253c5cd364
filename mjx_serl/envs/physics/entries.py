"""Which numbers of a compiled model differ between worlds."""

import dataclasses

import mujoco
import numpy as np
from jaxtyping import Float32

# mj_setConst derives constants from these: body_subtreemass, dof_M0, the inverse weights.
_DERIVED_FROM = ("body_mass", "body_inertia", "dof_armature")


@dataclasses.dataclass(frozen=True)
class ModelEntries:
    """Entries of model fields that each world has values of its own for, in the values' order.

    Attributes:
        fields: name of a field of `mujoco.MjModel` of floats, and flat indices in it.
    """

    fields: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """Number of values of a world."""
        return sum(len(index) for _, index in self.fields)

    @property
    def derived(self) -> bool:
        """Whether constants that MuJoCo derives from the model change with the entries."""
        return any(field in _DERIVED_FROM for field, _ in self.fields)

    def nominal(self, model: mujoco.MjModel) -> Float32[np.ndarray, " P"]:
        """Return the values that the model itself has."""
        parts = [getattr(model, field).reshape(-1)[list(index)] for field, index in self.fields]
        return np.concatenate(parts).astype(np.float32)
