"""One run on many devices of this machine: the epoch of each on its share of the worlds.

Worlds, their prepared resets, pictures and replay rows lie where their world is and are never
moved; what is learned, its optimisers, the observation statistics and demonstrations are the same
on every device. A batch is drawn from a device's own rows, of which all have equally many, and
gradients are averaged (`mjx_serl.agents.optimizer.apply_gradients`), so that all take the same
steps. Everything a trainer does of itself is traced once for each device, by `jax.shard_map`; what
it draws from the key of its state differs between devices, what worlds draw is by their number
among all (`mjx_serl.devices`).

With an `FSDPConfig` the large arrays of an agent are not the same on every device: each has a part
(`mjx_serl.training.fsdp`).

A state is that of the trainer on one device, in its shapes and its meaning: sums over worlds are
those over all. So a run may go on with another number of devices than it was saved with.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mjx_serl import devices
from mjx_serl.data.replay import ReplayState
from mjx_serl.envs.vector import BadWorld, VecState
from mjx_serl.platform import DEVICES_FLAG
from mjx_serl.training import fsdp
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.fsdp import FSDPConfig
from mjx_serl.training.on_devices import OnDevices
from mjx_serl.training.scan import run_once
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import Ring, Share, Trainer
from mjx_serl.types import Metrics, PRNGKey, PyTree
from scenes.contract.errors import InputError

# Metrics that are sums over worlds; all others are means.
SUMMED = ("episode/", "env/", "pair/", "buffer/size")
# Plays so many episodes.
Play = Callable[[PolicyParams, PRNGKey, int], EpisodeResult]


class Shareable(Trainer, Protocol):
    """A trainer that many devices can share.

    Its states may hold dataclasses that name in `SUMS` what in them is summed over worlds.
    """

    def part(self, among: int) -> Self:
        """Return the trainer of one of so many devices; InputError where they cannot share it."""
        ...

    def given(self, key: PRNGKey) -> PyTree:
        """Return what the first state is made from and no program makes, such as demonstrations."""
        ...

    def first_state(self, key: PRNGKey, given: PyTree) -> TrainState:
        """Return the state before the first epoch and any pretraining; traced."""
        ...

    @property
    def pretraining(self) -> Callable[[TrainState], TrainState] | None:
        """What is traced to learn before the first epoch."""
        ...


def over_devices(trainer: Any, among: int, split: FSDPConfig | None = None) -> Trainer:
    """Return the trainer whose epochs run on so many devices; one leaves it as it is.

    With `split` they hold large parameters together, where it is enabled. Raises InputError where
    there are fewer, or they cannot share it.
    """
    split = split if split is not None and split.enable else None
    if among == 1:
        if split is not None:
            fsdp.require_split((), among, split)
        return trainer
    require_devices(among)
    if not hasattr(trainer, "part"):
        raise InputError(
            f"--devices {among} with this method, which has no part of one; allowed: 1"
        )
    if not trainer.traceable:
        raise InputError(
            f"--devices {among} with a renderer that is not compiled with the epoch, allowed: "
            "--devices 1, or --pixels.backend xla, or on a CPU cpu"
        )
    each = among // jax.process_count()
    own = [[x for x in jax.devices() if x.process_index == k] for k in range(jax.process_count())]
    mesh = Mesh(np.array([x for there in own for x in there[:each]]), (devices.AXIS,))
    part = trainer.part(among)
    if split is not None:
        fsdp.require_split(trainer.state_shapes().agent, among, split)
    return Sharded(trainer, part, mesh, split)


def device_count(asked: int | str) -> int:
    """Return how many devices train: "auto" is all GPUs of this machine, or one CPU."""
    if isinstance(asked, int):
        return asked
    return 1 if jax.default_backend() == "cpu" else jax.local_device_count()


def require_devices(among: int) -> None:
    """Raise InputError where there are not so many devices."""
    there, among = jax.local_devices(), among // jax.process_count()
    if among <= len(there):
        return
    kind = there[0].device_kind or there[0].platform
    count = "one" if len(there) == 1 else str(len(there))
    hint = (
        ". Hint: train.py makes several of a CPU; in a process of yours say so before JAX starts, "
        f"with XLA_FLAGS={DEVICES_FLAG}={among}"
    )
    raise InputError(
        f"--devices {among} where there is {count} ({kind}), allowed: 1 to {len(there)}"
        f"{hint if there[0].platform == 'cpu' else ''}"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Sharded(OnDevices):
    """A Trainer of many devices.

    Attributes:
        whole: the trainer as it is on one device.
        own: of one device's share.
        mesh: the devices, on one axis.
        split: what of an agent's state they hold together; None nothing.
    """

    whole: Shareable
    own: Shareable
    mesh: Mesh
    split: FSDPConfig | None = None

    @cached_property
    def specs(self) -> PyTree:
        """Along which axis each leaf of a state is shared, if it is: the one that is shorter."""
        specs = jax.tree.map(_spec, self._shapes, self.own.state_shapes())
        if self.split is None:
            return specs
        agent = fsdp.split_specs(self._shapes.agent, self.mesh.size, self.split)
        return specs.replace(agent=agent)

    @property
    def note(self) -> str:
        """A line about what is split; "" where nothing is."""
        if self.split is None:
            return ""
        return fsdp.said(self._shapes.agent, self.mesh.size, self.split)

    @cached_property
    def _shapes(self) -> TrainState:
        return self.whole.state_shapes()

    @cached_property
    def shardings(self) -> PyTree:
        """Where each leaf of a state lies."""
        return jax.tree.map(partial(NamedSharding, self.mesh), self.specs)

    def jit(self, step: Callable[[TrainState], tuple[TrainState, Metrics]]) -> Any:
        """`jax.jit` of an epoch of this trainer, which uses up the state that it is given."""
        # Where they lie is said, for jit would have empty leaves lie elsewhere.
        lie = (self.shardings, NamedSharding(self.mesh, P()))
        return jax.jit(step, donate_argnums=0, out_shardings=lie)

    def state_shapes(self) -> TrainState:
        """The state as shapes, with where they lie."""

        def placed(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(placed, self._shapes, self.shardings)

    def init(self, key: PRNGKey) -> TrainState:
        """The state before the first epoch: the worlds' starts are those of one device."""

        def first(key: PRNGKey, given: PyTree) -> TrainState:
            state = self._common(self.own.first_state(key, given), {})[0]
            return state if self.split is None else state.replace(agent=())

        specs = self.specs if self.split is None else self.specs.replace(agent=())
        start = self._on_each(first, (P(), P()), specs)
        told = self._everywhere(key, self.whole.given(key))
        state = run_once(start, *told, traceable=True)
        if self.split is not None:
            # By XLA's own partitioning, so that no device ever holds all of it.
            lie = self.shardings.agent
            agent = jax.jit(lambda *of: self.whole.first_state(*of).agent, out_shardings=lie)
            state = state.replace(agent=agent(*told))
        state = devices.place(state, self.shardings)
        pretraining = self.own.pretraining
        if pretraining is None:
            return state

        def pretrain(state: TrainState) -> tuple[TrainState, Metrics]:
            return pretraining(state), {}

        return self.jit(self._stepping(pretrain))(state)[0]

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """An epoch of every device on its share; metrics of all."""
        return self._stepping(self.own.epoch)(state)

    def evaluation(self, play: Play, params: PolicyParams, episodes: int) -> Any:
        """Return `play`, compiled for parameters of these shapes, of episodes that devices share.

        They are those of one device, whatever their number: what is too many is left out.
        """
        each = -(-episodes // self.mesh.size)
        specs = self._params_specs

        def play_own(params: PolicyParams, key: PRNGKey) -> EpisodeResult:
            if self.split is not None:
                params = params.replace(agent=fsdp.as_split(params.agent, specs.agent))
            return play(params, key, each)

        shared = self._on_each(play_own, (specs, P()), P(devices.AXIS))

        def run(params: PolicyParams, key: PRNGKey) -> EpisodeResult:
            return jax.tree.map(lambda x: x[:episodes], shared(params, key))

        key = jax.eval_shape(lambda: jax.random.key(0))
        everywhere = NamedSharding(self.mesh, P())
        lie = (jax.tree.map(partial(NamedSharding, self.mesh), specs), everywhere)
        if self.split is None:
            lie = jax.tree.map(lambda _: everywhere, (params, key))
        shapes = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            (params, key),
            lie,
        )
        compiled = jax.jit(run, out_shardings=everywhere).lower(*shapes).compile()
        return lambda params, key: compiled(*devices.place((params, key), lie))

    @cached_property
    def _params_specs(self) -> PyTree:
        """Of what `choose` reads."""
        return P() if self.split is None else self.whole.policy_params(self.specs)

    @property
    def teach(self) -> Callable[..., TrainState] | None:
        """What a run calls before the first epoch, which every device knows of; None mostly."""
        teach: Callable[..., TrainState] | None = getattr(self.whole, "teach", None)
        if teach is None:
            return None

        if self.split is not None:
            return lambda state, *told: teach(state, *told, over=self._agent_step)

        def on_one(state: TrainState, *told: Any) -> TrainState:
            # On the first device, from what is the same on all.
            own = state.replace(
                agent=jax.tree.map(_on_first, state.agent),
                normalizer=jax.tree.map(_on_first, state.normalizer),
            )
            taught = teach(own, *told)
            return state.replace(agent=devices.place(taught.agent, self.shardings.agent))

        return on_one

    def _agent_step(self, step: Callable[..., tuple[PyTree, Metrics]]) -> Callable[..., Any]:
        """Return a step of an agent's state, which is split, and of what is the same on all.

        All devices make it; its metrics are of all.
        """

        def run(agent: PyTree, *same: PyTree) -> tuple[PyTree, Metrics]:
            assert self.split is not None
            specs_of = partial(fsdp.split_specs, among=self.mesh.size, cfg=self.split)
            before, after = specs_of(agent), specs_of(jax.eval_shape(step, agent, *same)[0])

            def on_one(agent: PyTree, *same: PyTree) -> tuple[PyTree, Metrics]:
                agent, metrics = step(fsdp.as_split(agent, before), *same)
                return fsdp.as_parts(agent), devices.mean(metrics)

            each = self._on_each(on_one, (before, *(P() for _ in same)), (after, P()))
            agent, metrics = each(agent, *same)
            lie = jax.tree.map(partial(NamedSharding, self.mesh), after)
            return jax.lax.with_sharding_constraint(agent, lie), metrics

        compiled = jax.jit(run, donate_argnums=0)
        return lambda agent, *same: compiled(agent, *self._everywhere(*same))

    def _stepping(self, step: Callable[[TrainState], tuple[TrainState, Metrics]]) -> Any:
        """Return a step of all devices, made of what each does with its share of a state."""

        def on_one(state: TrainState) -> tuple[TrainState, Metrics]:
            key, k_own = jax.random.split(state.key)
            own = _counted_here(state, self.specs).replace(key=devices.own_key(k_own))
            if self.split is not None:
                own = own.replace(agent=fsdp.as_split(own.agent, self.specs.agent))
            after, metrics = step(own)
            after = after.replace(agent=fsdp.as_parts(after.agent))
            after, metrics = self._common(after, metrics)
            return after.replace(key=key), metrics

        return self._on_each(on_one, (self.specs,), (self.specs, P()))

    def _common(self, state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
        """A state and metrics in which what each device has counted is put together."""
        counts = jax.tree.map(_counts, state, self.specs, is_leaf=_counts_worlds)
        shares = {
            name: x if name.startswith(SUMMED) else x / self.mesh.size
            for name, x in metrics.items()
        }
        counts, metrics = devices.total((counts, shares))
        state = jax.tree.map(_with, state, counts, is_leaf=_counts_worlds)
        if isinstance(state.worlds, VecState):
            bad = _first_bad(state.worlds.bad)
            state = state.replace(worlds=state.worlds.replace(bad=bad))
        return state, metrics

    def _on_each(self, function: Callable[..., Any], given: PyTree, found: PyTree) -> Any:
        # Unchecked: that what is `given` everywhere is found the same everywhere is this module's
        # to see to, and a test's; foreign calls do not tell what their results depend on.
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=given, out_specs=found, check_vma=False
        )

    def _everywhere(self, *trees: PyTree) -> tuple[PyTree, ...]:
        return devices.place(trees, NamedSharding(self.mesh, P()))

    def torn(self, state: TrainState, part: str = "") -> list[str]:
        """Names of leaves that should be the same on all devices and are not; they are fetched.

        With `part`, which names begin with, of these alone.
        """
        named = jax.tree_util.tree_leaves_with_path(state)
        found = []
        for (path, x), spec in zip(named, jax.tree.leaves(self.specs), strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if not any(spec) and name.startswith(part):
                first, *others = (_bytes(shard.data) for shard in x.addressable_shards)
                found += [name] if any(other != first for other in others) else []
        return found

    # -- what one device does as well ----------------------------------------------------------

    @property
    def traceable(self) -> bool:
        """Yes: what is not is never shared."""
        return True

    def policy_params(self, state: TrainState) -> PolicyParams:
        """What `choose` reads, on the first device: whoever plays with it needs no more."""
        return jax.tree.map(_on_first, self.whole.policy_params(state))

    def spread_params(self, state: TrainState) -> PolicyParams:
        """The same where it lies, for `evaluation`."""
        return self.policy_params(state) if self.split is None else self.whole.policy_params(state)

    def begun(self, state: TrainState) -> TrainState:
        """The state after parameters of another run have been put into it, where it lies."""
        begun = getattr(self.whole, "begun", None)
        return devices.place(state if begun is None else begun(state), self.shardings)

    def rings(self, state: TrainState) -> list[Ring]:
        """The replay rings of a state."""
        rings = getattr(self.whole, "rings", None)
        return [] if rings is None else rings(state)

    def memory(self, state: TrainState) -> Sequence[Share]:
        """The parts of a state that options shrink, as much of them as a device holds."""
        shares = self.whole.memory(state)
        return [dataclasses.replace(x, nbytes=x.nbytes // self.mesh.size) for x in shares]


def _spec(whole: jax.ShapeDtypeStruct, own: jax.ShapeDtypeStruct) -> P:
    differ = [a != b for a, b in zip(whole.shape, own.shape, strict=True)]
    return P(*(devices.AXIS if other else None for other in differ)) if any(differ) else P()


def _counts_worlds(node: Any) -> bool:
    return hasattr(node, "SUMS") or isinstance(node, ReplayState)


def _is_shared(ring: ReplayState) -> bool:
    """Whether a ring, given as the specs of its leaves, is of worlds that devices share."""
    return any(devices.AXIS in spec for spec in jax.tree.leaves(ring.data))


def _counted_here(state: TrainState, specs: PyTree) -> TrainState:
    """A device's share of a state in which sums over worlds are such that their total is theirs."""

    def of(node: Any, spec: Any) -> Any:
        if isinstance(node, ReplayState):
            return node.recounted() if _is_shared(spec) else node
        if not _counts_worlds(node):
            return node
        return node.replace(**{name: devices.once(getattr(node, name)) for name in node.SUMS})

    return jax.tree.map(of, state, specs, is_leaf=_counts_worlds)


def _counts(node: Any, spec: Any) -> dict[str, Any]:
    """What a part of a state sums over worlds, by field."""
    if isinstance(node, ReplayState):
        return {"usable": node.usable} if _is_shared(spec) else {}
    return {name: getattr(node, name) for name in node.SUMS} if _counts_worlds(node) else {}


def _with(node: Any, counts: dict[str, Any]) -> Any:
    return node.replace(**counts) if counts else node


def _first_bad(bad: BadWorld) -> BadWorld:
    """That of the first device that has seen one."""
    seen, found = devices.of_first(bad.seen, bad)
    return jax.tree.map(partial(jnp.where, seen), found, bad)


def _bytes(x: jax.Array) -> bytes:
    is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()


def _on_first(x: Any) -> Any:
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
        return x
    if x.is_fully_replicated:
        return x.addressable_data(0)
    # All of what is split; of several processes all ask.
    if x.is_fully_addressable:
        return jax.device_put(x, min(x.devices(), key=lambda device: device.id))
    assert isinstance(x.sharding, NamedSharding)
    everywhere = NamedSharding(x.sharding.mesh, P())
    return jax.jit(lambda x: x, out_shardings=everywhere)(x).addressable_data(0)
