"""Specs for tests that only care about names, shapes and dtypes."""

from collections.abc import Mapping
from typing import Any

from scenes.contract.specs import ActionSpec, ObsField, ObsSpec


def obs_spec_of(shapes: Mapping[str, Any], scales: Mapping[str, float] | None = None) -> ObsSpec:
    """The spec of arrays or shapes by name; every scale is 1 unless given."""
    scales = scales or {}
    return ObsSpec(
        fields=tuple(
            ObsField(name=name, shape=x.shape, dtype=str(x.dtype), scale=scales.get(name, 1.0))
            for name, x in shapes.items()
        )
    )


def action_spec_of(dim: int, **changes: Any) -> ActionSpec:
    """`dim` continuous entries."""
    fields = {
        "mode": "ee_delta",
        "names": tuple(f"a{i}" for i in range(dim)),
        "scale": (1.0,) * dim,
        "rate": 10.0,
    }
    return ActionSpec(**(fields | changes))
