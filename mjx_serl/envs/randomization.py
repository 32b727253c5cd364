"""From the terms of a task to what one world draws: values in its model, and where things lie."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct
from jaxtyping import Array, Float
from numpy.typing import NDArray

from mjx_serl.envs.physics.entries import ModelEntries
from mjx_serl.envs.randomize import FIELDS, Randomize, operate
from mjx_serl.envs.selectors import TABLE, select
from mjx_serl.types import PyTree
from scenes.build import ObjectIndex, Scene
from scenes.contract.errors import InputError
from scenes.contract.quaternions import product

Key = tuple[str, int]  # a model field and a flat index in it
Values = Float[Array, " P"]
Draws = Float[Array, " D"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """One number that each world draws.

    Attributes:
        name: of what.
        low, high: ends of its range.
        nominal: the number that changes nothing, or the nearest in the range.
        log: whether its logarithm is uniform.
        normal: whether it is normal, cut off at the ends.
        startup: whether it belongs to a prepared place, see `Randomize.when`.
    """

    name: str
    low: float
    high: float
    nominal: float
    log: bool = False
    normal: bool = False
    startup: bool = False


@struct.dataclass
class Drawn:
    """What a world has drawn.

    Attributes:
        numbers: one for each `Draw`.
        tested: int32, the end of a range that this episode tests: twice the draw's index, one more
            for the high end; -1 for none. () where ranges do not grow.
    """

    numbers: Float[Array, "*n D"]
    tested: PyTree = ()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """What one term does with its draws.

    Attributes:
        draws: its numbers.
        keys: entries of the model that it changes.
        change: from the values of `keys` and its draws to new values; None changes no model.
        place: from qpos and its draws to qpos, and by how much objects lie higher [m].
        bias: from its draws to what the arm's joints read too much [rad].
    """

    draws: tuple[Draw, ...]
    keys: tuple[Key, ...] = ()
    change: Callable[[Array, Array], Array] | None = None
    place: Callable[[Array, Array], tuple[Array, dict[str, Array]]] | None = None
    bias: Callable[[Array], Array] | None = None


def compile_term(term: Randomize, scene: Scene) -> Part:
    """Return what a term does; InputError where its selector or range does not fit the scene."""
    special = {
        "inertia": _stretch,
        "size": _size,
        "position": _position,
        "yaw": _yaw,
        "table_height": _table_height,
        "encoder_bias": _encoder_bias,
    }
    return special.get(term.field, _entries)(term, scene)


def draws_of(term: Randomize, owners: Sequence[str], nominal: float) -> tuple[Draw, ...]:
    """One draw for all owners, or one each."""
    neutral = {"scale": 1.0, "add": 0.0, "abs": nominal}[term.operation]
    names = [", ".join(term.selector)] if term.shared else list(owners)
    low, high = term.range
    return tuple(
        Draw(
            name=f"{term.field} of {name}",
            low=low,
            high=high,
            nominal=float(np.clip(neutral, low, high)),
            log=term.distribution == "log_uniform",
            normal=term.distribution == "gaussian",
            startup=term.when == "startup",
        )
        for name in names
    )


# Where the fields are in a model: what a term's operation acts on, then what is scaled along with
# it. "gain" is of position actuators: kp, and -kp and -kv of the bias.
_ACTS_ON = {
    "friction": ("geom_friction", 3, 0),
    "mass": ("body_mass", 1, 0),
    "damping": ("dof_damping", 1, 0),
    "armature": ("dof_armature", 1, 0),
    "frictionloss": ("dof_frictionloss", 1, 0),
    "gain": ("actuator_gainprm", 10, 0),
    "effort": ("jnt_actfrcrange", 2, 1),
}
_ALONG = {
    "mass": ("body_inertia", 3, (0, 1, 2)),
    "gain": ("actuator_biasprm", 10, (1, 2)),
    "effort": ("jnt_actfrcrange", 2, (0,)),
}


def _entries(term: Randomize, scene: Scene) -> Part:
    """A term that acts on one entry of each selected thing, with others scaled along."""
    model = scene.model
    groups = select(scene, FIELDS[term.field].of, term.selector)
    ids = np.concatenate(groups)
    field, width, column = _ACTS_ON[term.field]
    _check_movable(term, model, ids)
    first = [(field, int(i) * width + column) for i in ids]
    nominal = np.array([_value(model, key) for key in first])
    for value in nominal:
        term.check_value(float(value))
    other, span, columns = _ALONG.get(term.field, ("", 0, ()))
    along = [(other, int(i) * span + k) for i in ids for k in columns]
    if along and not (nominal > 0.0).all():
        raise InputError(f"{term}: what is selected has none, allowed: what has some to scale")
    owner = np.repeat(np.arange(len(ids)), len(columns))
    which = np.zeros(len(ids), int) if term.shared else np.arange(len(ids))

    def change(values: Array, drawn: Array) -> Array:
        old, rest = values[: len(ids)], values[len(ids) :]
        new = operate(term.operation, old, drawn[which])
        return jnp.concatenate([new, rest * (new / old)[owner]]) if along else new

    owners = [f"{term.selector[i]} {k}" for i, g in enumerate(groups) for k in range(len(g))]
    return Part(
        draws=draws_of(term, owners, float(nominal[0])), keys=(*first, *along), change=change
    )


def _check_movable(term: Randomize, model: mujoco.MjModel, ids: NDArray[np.integer]) -> None:
    """Raise InputError for what has no such number: a joint without limits, a torque motor."""
    if term.field == "effort" and not model.jnt_actfrclimited[ids].all():
        raise InputError(f"{term}: without a limit of its force, allowed: joints that have one")
    position = int(mujoco.mjtBias.mjBIAS_AFFINE)
    if term.field == "gain" and (model.actuator_biastype[ids] != position).any():
        raise InputError(f"{term}: no position actuator, allowed: those of actuation 'position'")


def _stretch(term: Randomize, scene: Scene) -> Part:
    """Second moments of the mass along the principal axes, each times the square of a factor."""
    ids = np.concatenate(select(scene, "body", term.selector))
    term.check_value(1.0)
    keys = [("body_inertia", 3 * int(i) + k) for i in ids for k in range(3)]
    owners = [f"{name} {axis}" for name in _body_names(scene, ids) for axis in "xyz"]
    # One draw each axis also where bodies share: equal factors would be a mass without its mass.
    three = dataclasses.replace(term, shared=False)
    draws = draws_of(three, owners[:3] if term.shared else owners, 1.0)
    count = 1 if term.shared else len(ids)

    def change(values: Array, drawn: Array) -> Array:
        inertia = values.reshape(-1, 3)
        moments = inertia.sum(-1, keepdims=True) / 2.0 - inertia
        moments *= drawn.reshape(count, 3) ** 2
        return (moments.sum(-1, keepdims=True) - moments).reshape(-1)

    return Part(draws=draws, keys=tuple(keys), change=change)


def _body_names(scene: Scene, ids: NDArray[np.integer]) -> list[str]:
    return [scene.model.body(int(i)).name for i in ids]


def _size(term: Randomize, scene: Scene) -> Part:
    """A solid scaled about its middle with the mass of its density, and put down again."""
    model, objects = scene.model, _free_objects(term, scene)
    term.check_value(1.0)
    keys: list[Key] = []
    powers: list[int] = []
    for entry in objects.values():
        geom, body = entry.geom_id, entry.body_id
        powers += _scaled_along(keys, model, geom, body)
    per_object, heights = len(keys) // len(objects), _half_heights(scene, objects)
    names = list(objects)
    owner = np.repeat(np.arange(len(objects)), per_object)
    which = np.zeros(len(objects), int) if term.shared else np.arange(len(objects))

    def change(values: Array, drawn: Array) -> Array:
        return values * drawn[which][owner] ** np.asarray(powers)

    def place(qpos: Array, drawn: Array) -> tuple[Array, dict[str, Array]]:
        rise = (drawn[which] - 1.0) * heights
        return _raised(qpos, objects, rise), dict(zip(names, rise, strict=True))

    return Part(draws=draws_of(term, names, 1.0), keys=tuple(keys), change=change, place=place)


def _scaled_along(keys: list[Key], model: mujoco.MjModel, geom: int, body: int) -> list[int]:
    """Append what scales with a solid's size; returns the power of each."""
    sizes = [("geom_size", 3 * geom + k) for k in range(3)]
    boxes = [("geom_aabb", 6 * geom + k) for k in range(6)]
    volume = [("bvh_aabb", 6 * int(model.body_bvhadr[body]) + k) for k in range(6)]
    found = [
        *((key, 1) for key in (*sizes, *boxes, ("geom_rbound", geom), *volume)),
        (("body_mass", body), 3),
        *((("body_inertia", 3 * body + k), 5) for k in range(3)),
    ]
    keys += [key for key, _ in found]
    return [power for _, power in found]


def _free_objects(term: Randomize, scene: Scene) -> dict[str, ObjectIndex]:
    """The selected objects; InputError unless each is one free solid that is not a mesh."""
    found = {name: scene.object(name) for name in term.selector}
    for name, entry in found.items():
        free = len(entry.qpos_ids) == 7
        kind = scene.model.geom_type[entry.geom_id]
        plain = len(entry.geom_ids) == 1 and kind != mujoco.mjtGeom.mjGEOM_MESH
        if not free or (term.field == "size" and not plain):
            what = "one solid that is no mesh, on a free joint" if free else "on a free joint"
            raise InputError(f"{term}: '{name}' is not, allowed: objects that are {what}")
    return found


def _half_heights(scene: Scene, objects: dict[str, ObjectIndex]) -> NDArray[np.float64]:
    """From the middle of each to its lowest point as it lies at home [m]."""
    model, data = scene.model, mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    mujoco.mj_kinematics(model, data)
    geoms = [entry.geom_id for entry in objects.values()]
    up = data.geom_xmat[geoms].reshape(-1, 3, 3)[:, 2]
    return np.abs(up * model.geom_aabb[geoms, 3:]).sum(-1)


def _raised(qpos: Array, objects: dict[str, ObjectIndex], rise: Array) -> Array:
    heights = np.array([entry.qpos_adr + 2 for entry in objects.values()])
    return qpos.at[heights].add(rise)


def _position(term: Randomize, scene: Scene) -> Part:
    objects = _free_objects(term, scene)
    owners = [f"{name} {axis}" for name in objects for axis in "xy"]
    draws = draws_of(dataclasses.replace(term, shared=False), owners, 0.0)
    draws = draws[:2] if term.shared else draws
    ids = np.array([[entry.qpos_adr, entry.qpos_adr + 1] for entry in objects.values()])

    def place(qpos: Array, drawn: Array) -> tuple[Array, dict[str, Array]]:
        return qpos.at[ids].add(drawn.reshape(-1, 2)), {}

    return Part(draws=draws, place=place)


def _yaw(term: Randomize, scene: Scene) -> Part:
    objects = _free_objects(term, scene)
    which = [0] * len(objects) if term.shared else list(range(len(objects)))

    def place(qpos: Array, drawn: Array) -> tuple[Array, dict[str, Array]]:
        for k, entry in zip(which, objects.values(), strict=True):
            quat = slice(entry.qpos_adr + 3, entry.qpos_adr + 7)
            half, none = 0.5 * drawn[k], jnp.zeros(())
            turn = jnp.stack([jnp.cos(half), none, none, jnp.sin(half)])
            qpos = qpos.at[quat].set(product(turn, qpos[quat]))
        return qpos, {}

    return Part(draws=draws_of(term, list(objects), 0.0), place=place)


def _table_height(term: Randomize, scene: Scene) -> Part:
    """The table's solids go up, and with them every object that stands in the world."""
    model = scene.model
    names = {model.geom(i).name: i for i in range(model.ngeom)}
    if term.selector != (TABLE,) or TABLE not in names:
        raise InputError(f"{term}: allowed: the selector 'table', in a scene that has one")
    geoms = [i for name, i in names.items() if name in (TABLE, f"{TABLE}_body")]
    standing = {k: v for k, v in scene.objects.items() if model.body_parentid[v.body_id] == 0}
    free = {name: entry for name, entry in standing.items() if len(entry.qpos_ids) == 7}
    fixed = [entry.body_id for name, entry in standing.items() if name not in free]
    keys = [("geom_pos", 3 * i + 2) for i in geoms] + [("body_pos", 3 * i + 2) for i in fixed]

    def place(qpos: Array, drawn: Array) -> tuple[Array, dict[str, Array]]:
        return _raised(qpos, free, drawn[0]), dict.fromkeys(standing, drawn[0])

    def change(values: Array, drawn: Array) -> Array:
        return values + drawn[0]

    return Part(draws=draws_of(term, [TABLE], 0.0), keys=tuple(keys), change=change, place=place)


def _encoder_bias(term: Randomize, scene: Scene) -> Part:
    if len(scene.arms) != 1:
        raise InputError(f"{term}: the scene has {len(scene.arms)} arms, allowed: one")
    chosen = np.concatenate(select(scene, "joint", term.selector))
    places = [list(scene.arm.joint_ids).index(i) for i in chosen if i in scene.arm.joint_ids]
    if len(places) < len(chosen):
        raise InputError(f"{term}: allowed: 'arm' or names of its joints")
    which = np.zeros(len(places), int) if term.shared else np.arange(len(places))
    joints = len(scene.arm.joint_ids)

    def bias(drawn: Array) -> Array:
        return jnp.zeros(joints).at[np.array(places)].set(drawn[which])

    owners = [scene.model.joint(int(i)).name for i in chosen]
    return Part(draws=draws_of(term, owners, 0.0), bias=bias)


def _value(model: mujoco.MjModel, key: Key) -> float:
    return float(getattr(model, key[0]).reshape(-1)[key[1]])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Randomization:
    """All terms of a task in one compiled scene.

    Attributes:
        parts: one for each term.
        further: draws that are none of the model's, after those of the parts.
        entries: of the model that differ between worlds; None where none do.
        nominal: their values in the model.
    """

    parts: tuple[Part, ...]
    further: tuple[Draw, ...]
    entries: ModelEntries | None
    nominal: NDArray[np.float32]

    @property
    def draws(self) -> tuple[Draw, ...]:
        """Everything that a world draws, in the order of its numbers."""
        return (*(draw for part in self.parts for draw in part.draws), *self.further)

    def values(self, numbers: Draws) -> Values:
        """Return the values of the entries of a world that drew these numbers."""
        places = {key: i for i, key in enumerate(self._keys)}
        values = jnp.asarray(self.nominal)
        for part, drawn in self._with_numbers(numbers):
            if part.change is not None:
                own = np.array([places[key] for key in part.keys])
                values = values.at[own].set(part.change(values[own], drawn))
        return values

    def place(self, qpos: Array, numbers: Draws) -> tuple[Array, dict[str, Array]]:
        """Return qpos with objects where they were drawn, and how much higher they lie [m]."""
        raised: dict[str, Array] = {}
        for part, drawn in self._with_numbers(numbers):
            if part.place is not None:
                qpos, rise = part.place(qpos, drawn)
                raised |= {name: raised.get(name, 0.0) + by for name, by in rise.items()}
        return qpos, raised

    def bias(self, numbers: Draws) -> Array | None:
        """What the arm's joints read too much [rad]; None where nothing is drawn of it."""
        found = [
            part.bias(drawn) for part, drawn in self._with_numbers(numbers) if part.bias is not None
        ]
        return sum(found[1:], found[0]) if found else None

    @property
    def _keys(self) -> list[Key]:
        fields = () if self.entries is None else self.entries.fields
        return [(field, i) for field, index in fields for i in index]

    def _with_numbers(self, numbers: Draws) -> list[tuple[Part, Array]]:
        found, begin = [], 0
        for part in self.parts:
            found.append((part, numbers[begin : begin + len(part.draws)]))
            begin += len(part.draws)
        return found


def build_randomization(
    terms: Sequence[Randomize], scene: Scene, further: Sequence[Draw] = ()
) -> Randomization:
    """Return the terms compiled for a scene; InputError where one does not fit it."""
    parts = tuple(compile_term(term, scene) for term in terms)
    _check_apart(terms, parts)
    keys = sorted({key for part in parts for key in part.keys})
    fields = {name: tuple(i for f, i in keys if f == name) for name, _ in keys}
    entries = ModelEntries(tuple(fields.items())) if fields else None
    nominal = np.zeros(0, np.float32) if entries is None else entries.nominal(scene.model)
    return Randomization(parts=parts, further=tuple(further), entries=entries, nominal=nominal)


def _check_apart(terms: Sequence[Randomize], parts: Sequence[Part]) -> None:
    """Raise InputError where two terms change one number and are not both factors.

    Each was checked with the number that the model has, which the other one changes.
    """
    owners: dict[Key, Randomize] = {}
    for term, part in zip(terms, parts, strict=True):
        for key in part.keys:
            other = owners.setdefault(key, term)
            if other is not term and {term.operation, other.operation} != {"scale"}:
                raise InputError(
                    f"{term}: {other} changes the same, allowed: two that both scale it, or one"
                )
