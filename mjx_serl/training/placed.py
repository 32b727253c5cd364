"""On-policy training with worlds on some devices and the policy on others, by turns.

The worlds are cut into groups (`pipeline_stage_num`), and each group into a part for every env
device. Between two choices a part is stepped by one program on its device; actions for a group are
chosen by one program on the rollout device; what they have to tell each other is copied. Nothing
waits on the host: JAX queues programs on each device, where they run in their order as soon as what
they read is there, so that one group's actions are chosen while another group is stepped.

    rollout device   choose A   choose B   choose A   choose B
    env devices                 step A     step B     step A     step B

Every part draws what its worlds would draw in one piece (`mjx_serl.devices.as_part`), so that an
epoch is that of one device, whatever the numbers of devices and groups, but for the rounding of
programs that XLA has compiled for other shapes. Between epochs a state is that of one device, the
worlds on the first env device, the rest where the policy learns.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.envs.vector import BadWorld, VecState, clear_stats
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.on_devices import OnDevices
from mjx_serl.training.placement import JaxDevice, PlacementConfig
from mjx_serl.training.rollout_trainer import RolloutTrainer
from mjx_serl.training.rollouts import Played
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey, PyTree, Transition
from scenes.contract.errors import InputError


def over_placement(trainer: Any, placement: PlacementConfig, among: int) -> "Placed":
    """Return the trainer whose parts are placed on so many devices.

    Raises InputError where it cannot be.
    """
    if not isinstance(trainer, RolloutTrainer):
        raise InputError(
            "--placement with a method that learns from stored rows, allowed: --method on_policy "
            "or on_policy_chunks; or --devices alone"
        )
    if not trainer.traceable:
        raise InputError(
            "--placement with a renderer that is not compiled with the worlds, allowed: "
            "--pixels.backend xla, or on a CPU cpu"
        )
    env, rollout, actor = placement.devices(among)
    stages, num = placement.pipeline_stage_num, trainer.vec_env.num_envs
    if num % (len(env) * stages):
        raise InputError(
            f"--num-envs {num} with {len(env)} devices of --placement.env and "
            f"--placement.pipeline-stage-num {stages}, allowed: a multiple of {len(env) * stages}"
        )
    return Placed(trainer, env, rollout, actor, stages)


@struct.dataclass
class _Part:
    """Worlds of a group on one env device, with what the trainer keeps of them."""

    worlds: VecState
    data: PyTree


@struct.dataclass
class _Stepped:
    """What a choice led to, of the worlds of a part.

    Attributes:
        row: to learn from, without observations and extras.
        obs: what is seen now.
        last: what was seen where episodes were cut off; zeros where `cut` is false.
        cut: whether any was.
    """

    row: Transition
    obs: Obs
    last: Obs
    cut: Bool[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class Placed(OnDevices):
    """A Trainer whose epoch is made of programs on several devices.

    Attributes:
        whole: the trainer as it is on one device.
        env: devices of the worlds.
        rollout: that which chooses.
        actor: that which learns.
        stages: groups of worlds.
    """

    whole: RolloutTrainer
    env: tuple[JaxDevice, ...]
    rollout: JaxDevice
    actor: JaxDevice
    stages: int

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """A rollout and what is learned from it; the state given is used up."""
        groups, carried = self._begin(state)
        play = _Rollout(self, groups, carried, state)
        turns = [(t, s) for t in range(self.whole.length) for s in range(self.stages)]
        play.ask(0)
        for i, (t, s) in enumerate(turns):
            following = [group for _, group in turns[i + 1 : i + 2]]
            # Of another group before this one is stepped, so that both devices have work to do.
            for group in following if self.stages > 1 else ():
                play.ask(group)
            play.step(t, s)
            for group in following if self.stages == 1 else ():
                play.ask(group)
        for s in range(self.stages):
            play.note(s)
        worlds, data = self._joined(groups, carried)
        key, seen = jax.device_put((play.key, play.seen), self.actor)
        learner = state.replace(worlds=(), data=(), key=key)
        learner, metrics = self._learn(learner, play.rows, seen)
        return learner.replace(worlds=worlds, data=data), metrics | self._told(worlds, data)

    # -- worlds --------------------------------------------------------------------------------

    def _begin(self, state: TrainState) -> tuple[list[list[_Part]], list[PyTree]]:
        """The parts of the worlds, with new prepared resets, by group, each where it is stepped.

        Also what the policy remembers of each group.
        """
        begun = self._refresh(_Part(state.worlds, state.data))
        groups = [
            [
                jax.device_put(self._cut(begun, self._number(s, d)), device)
                for d, device in enumerate(self.env)
            ]
            for s in range(self.stages)
        ]
        remembered = jax.device_put(self.whole.remembered(begun.data), self.rollout)
        return groups, [self._own_memory(remembered, s) for s in range(self.stages)]

    def _number(self, stage: int, device: int) -> int:
        """Of a part among all: those of a group hold worlds that follow each other."""
        return stage * len(self.env) + device

    @property
    def _count(self) -> int:
        return self.stages * len(self.env)

    @cached_property
    def _own(self) -> RolloutTrainer:
        """The trainer of a part, which has all prepared resets."""
        worlds = self.whole.vec_env
        num = worlds.num_envs // self._count
        return dataclasses.replace(self.whole, vec_env=dataclasses.replace(worlds, num_envs=num))

    @cached_property
    def _axes(self) -> _Part:
        """Along which axis each leaf is cut; -1 not."""

        def axis(whole: jax.ShapeDtypeStruct, own: jax.ShapeDtypeStruct) -> int:
            sizes = enumerate(zip(whole.shape, own.shape, strict=True))
            differ = [i for i, (a, b) in sizes if a != b]
            return differ[0] if differ else -1

        every, own = self.whole.state_shapes(), self._own.state_shapes()
        return jax.tree.map(axis, _Part(every.worlds, every.data), _Part(own.worlds, own.data))

    @cached_property
    def _refresh(self) -> Callable[[_Part], _Part]:
        def refresh(begun: _Part) -> _Part:
            worlds = self.whole.vec_env.refresh(clear_stats(begun.worlds))
            return _Part(worlds, begun.data.replace(episodes=jnp.int32(0)))

        return jax.jit(refresh, donate_argnums=0)

    @cached_property
    def _cut(self) -> Callable[[_Part, int], _Part]:
        def own(x: Array, axis: int, index: Int[Array, ""]) -> Array:
            if axis < 0:
                return x
            size = x.shape[axis] // self._count
            return jax.lax.dynamic_slice_in_dim(x, size * index, size, axis)

        def counted(node: Any) -> Any:
            # Sums over worlds go with the first part: their total is theirs.
            sums = {name: devices.once(getattr(node, name)) for name in getattr(node, "SUMS", ())}
            return node.replace(**sums) if sums else node

        def cut(begun: _Part, index: Int[Array, ""]) -> _Part:
            with devices.as_part(self._count, index):
                part = jax.tree.map(partial(own, index=index), begun, self._axes)
                return jax.tree.map(counted, part, is_leaf=_has_sums)

        return jax.jit(cut)

    def _joined(
        self, groups: Sequence[Sequence[_Part]], carried: list[PyTree]
    ) -> tuple[VecState, PyTree]:
        """The worlds and what is kept of them, as one, on the first env device."""
        parts = [part for group in groups for part in group]
        parts, carried = jax.device_put((parts, carried), self.env[0])
        joined = self._join(parts, carried)
        return joined.worlds, joined.data

    @cached_property
    def _join(self) -> Callable[..., _Part]:
        def leaf(axis: int, *xs: Array) -> Array:
            return xs[0] if axis < 0 else jnp.concatenate(xs, axis)

        def summed(node: Any, *nodes: Any) -> Any:
            names = getattr(node, "SUMS", ())
            sums = {name: sum(getattr(x, name) for x in nodes) for name in names}
            return node.replace(**sums) if sums else node

        def join(parts: list[_Part], carried: list[PyTree]) -> _Part:
            joined = jax.tree.map(leaf, self._axes, *parts)
            joined = jax.tree.map(summed, joined, *parts, is_leaf=_has_sums)
            bad = _first_bad([part.worlds.bad for part in parts])
            data = self.whole.remembering(joined.data, _concatenated(carried))
            return _Part(joined.worlds.replace(bad=bad), data)

        return jax.jit(join)

    @cached_property
    def _observe(self) -> Callable[[VecState], Obs]:
        return jax.jit(self._own.vec_env.observe)

    @cached_property
    def _step(self) -> Callable[[_Part, Choice, int], tuple[_Part, _Stepped]]:
        own, vec_env = self._own, self._own.vec_env

        def step(part: _Part, chosen: Choice, index: Int[Array, ""]) -> tuple[_Part, _Stepped]:
            with devices.as_part(self._count, index, at_once=len(self.env)):
                worlds, data, row, last = own.carry_out(part.worlds, part.data, chosen)
                worlds = vec_env.draw(worlds)
                see = partial(vec_env.observe_last, last, part.worlds)
                nothing = partial(_zeros, jax.eval_shape(see))
                cut = jnp.any(last.truncated)
                seen = jax.lax.cond(cut, see, nothing)
                return _Part(worlds, data), _Stepped(row, vec_env.observe(worlds), seen, cut)

        return jax.jit(step, donate_argnums=0)

    # -- the policy ----------------------------------------------------------------------------

    @cached_property
    def _split_key(self) -> Callable[[PRNGKey], tuple[PRNGKey, PRNGKey]]:
        return jax.jit(lambda key: tuple(jax.random.split(key)))

    @cached_property
    def _own_memory(self) -> Callable[[PyTree, int], PyTree]:
        def own(remembered: PyTree, stage: Int[Array, ""]) -> PyTree:
            with devices.as_part(self.stages, stage):
                return devices.own_rows(remembered)

        return jax.jit(own)

    @cached_property
    def _choose(self) -> Callable[..., tuple[tuple[Obs, dict], list[Choice], PyTree]]:
        """What a group sees and what the policy notes of it, actions by env device, its memory."""

        def choose(
            mind: PolicyParams, seen: list[Obs], carried: PyTree, key: PRNGKey, stage: Array
        ) -> tuple[tuple[Obs, dict], list[Choice], PyTree]:
            obs = _concatenated(seen)
            with devices.as_part(self.stages, stage):
                chosen, carried = self.whole.decide(*_pair(mind), obs, carried, key)
            plain = chosen.replace(extras={})
            return (obs, chosen.extras), _shares(plain, len(self.env)), carried

        return jax.jit(choose)

    @cached_property
    def _value(self) -> Callable[[PolicyParams, list[tuple[Obs, Array]]], Float[Array, " N"]]:
        """Of what time-outs cut off, as `RolloutTrainer.cut_value`."""

        def value(mind: PolicyParams, lasts: list[tuple[Obs, Array]]) -> Float[Array, " N"]:
            obs = _concatenated([last for last, _ in lasts])
            ask = partial(self.whole.value, mind, obs)
            any_cut = jnp.any(jnp.stack([cut for _, cut in lasts]))
            return jax.lax.cond(any_cut, ask, partial(_zeros, jax.eval_shape(ask)))

        return jax.jit(value)

    # -- learning ------------------------------------------------------------------------------

    def _no_rows(self) -> Played:
        """Room for what a group plays, where it is learned from."""
        found = jax.eval_shape(self.whole.play, self.whole.state_shapes(), None)[1]
        length, stages = self.whole.length, self.stages

        def room(x: jax.ShapeDtypeStruct) -> Array:
            shape = (length, x.shape[0] // stages, *x.shape[1:])
            return jnp.zeros(shape, x.dtype, device=self.actor)

        return jax.tree.map(room, found)

    @cached_property
    def _write(self) -> Callable[[Played, Any, int], Played]:
        def write(rows: Played, found: tuple, t: Int[Array, ""]) -> Played:
            (obs, extras), parts, cut = found
            step = _concatenated(parts).replace(obs=obs, extras=extras)
            put = partial(jax.lax.dynamic_update_index_in_dim, index=t, axis=0)
            return jax.tree.map(put, rows, Played(step, cut))

        return jax.jit(write, donate_argnums=0)

    @cached_property
    def _learn(self) -> Callable[..., tuple[TrainState, Metrics]]:
        def learn(
            state: TrainState, rows: list[Played], seen: list[list[Obs]]
        ) -> tuple[TrainState, Metrics]:
            after = _concatenated([_concatenated(group) for group in seen])
            state, metrics = self.whole.learn_from(state, _concatenated(rows, axis=1), after)
            return state.replace(epoch=optax.safe_increment(state.epoch)), metrics

        return jax.jit(learn, donate_argnums=0)

    @cached_property
    def _told(self) -> Callable[[VecState, PyTree], Metrics]:
        return jax.jit(self.whole.told)

    # -- the rest of a Trainer -----------------------------------------------------------------

    def state_shapes(self) -> TrainState:
        """The state as shapes, with where they lie."""

        def lies(device: JaxDevice, tree: PyTree) -> PyTree:
            where = SingleDeviceSharding(device)
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree
            )

        return self._by_place(self.whole.state_shapes(), lies)

    def init(self, key: PRNGKey) -> TrainState:
        """The state before the first epoch, that of one device."""
        return self._put(self.whole.init(key))

    def begun(self, state: TrainState) -> TrainState:
        """The state after parameters of another run have been put into it, where it lies."""
        return self._put(self.whole.begun(self._put(state)))

    def _put(self, state: TrainState) -> TrainState:
        return self._by_place(state, lambda device, tree: jax.device_put(tree, device))

    def _by_place(
        self, state: TrainState, put: Callable[[JaxDevice, PyTree], PyTree]
    ) -> TrainState:
        worlds, data = put(self.env[0], (state.worlds, state.data))
        rest = put(self.actor, state.replace(worlds=(), data=()))
        return rest.replace(worlds=worlds, data=data)

    def evaluation(
        self, play: Callable[..., EpisodeResult], params: PolicyParams, episodes: int
    ) -> Callable[[PolicyParams, PRNGKey], EpisodeResult]:
        """Return `play`, compiled for parameters of these shapes, on the rollout device."""
        where = SingleDeviceSharding(self.rollout)
        key = jax.eval_shape(lambda: jax.random.key(0))
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), (params, key)
        )
        compiled = jax.jit(partial(play, episodes=episodes)).lower(*shapes).compile()
        return lambda *told: compiled(*jax.device_put(told, self.rollout))

    @property
    def teach(self) -> Callable[..., TrainState] | None:
        """What a run calls before the first epoch, on the device that learns; None mostly."""
        teach: Callable[..., TrainState] | None = getattr(self.whole, "teach", None)
        return None if teach is None else lambda *told: self._put(teach(*told))

    @property
    def note(self) -> str:
        """A line about what is where."""
        env = ",".join(str(device.id) for device in self.env)
        return (
            f"placement: env {env}, rollout {self.rollout.id}, actor {self.actor.id}; "
            f"{self.stages} groups of {self.whole.vec_env.num_envs // self.stages} worlds"
        )

    @property
    def traceable(self) -> bool:
        """No: an epoch is several programs."""
        return False


class _Rollout:
    """A rollout while it is played, in the order in which programs are queued.

    A device does what it is given in that order. So nothing is put in front of a choice that waits
    for more than the choice does: what a step led to is looked at just before its group's next
    choice.

    Attributes:
        key: of what is random after it.
        seen: of each group what its env devices see, on the rollout device.
        rows: of each group, on the actor's.
    """

    def __init__(
        self, placed: Placed, groups: list[list[_Part]], carried: list[PyTree], state: TrainState
    ) -> None:
        self._placed, self._groups, self._carried = placed, groups, carried
        mind = PolicyParams(state.agent, state.normalizer)
        self._mind, self.key = jax.device_put((mind, state.key), placed.rollout)
        self._k_act = self.key
        seen = [[placed._observe(part.worlds) for part in group] for group in groups]
        self.seen = jax.device_put(seen, placed.rollout)
        self.rows = [placed._no_rows() for _ in groups]
        self._asked: dict[int, tuple[Any, list[Choice]]] = {}
        self._led_to: dict[int, tuple[int, Any, list[_Stepped]]] = {}

    def ask(self, s: int) -> None:
        """Choose the actions of a group; first note what its last ones led to."""
        if s == 0:
            self.key, self._k_act = self._placed._split_key(self.key)
        self.note(s)
        told, actions, self._carried[s] = self._placed._choose(
            self._mind, self.seen[s], self._carried[s], self._k_act, s
        )
        self._asked[s] = told, actions

    def step(self, t: int, s: int) -> None:
        """Step a group, each of its parts on its device."""
        placed, group = self._placed, self._groups[s]
        told, actions = self._asked.pop(s)
        steps = []
        for d, (part, chosen) in enumerate(zip(group, actions, strict=True)):
            there = jax.device_put(chosen, placed.env[d])
            group[d], stepped = placed._step(part, there, placed._number(s, d))
            steps.append(stepped)
        self.seen[s] = jax.device_put([x.obs for x in steps], placed.rollout)
        self._led_to[s] = t, told, steps

    def note(self, s: int) -> None:
        """Keep the rows of a group's last step, if there are any that are not kept."""
        if s not in self._led_to:
            return
        placed, (t, told, steps) = self._placed, self._led_to.pop(s)
        lasts = jax.device_put([(x.last, x.cut) for x in steps], placed.rollout)
        found = (told, [x.row for x in steps], placed._value(self._mind, lasts))
        self.rows[s] = placed._write(self.rows[s], jax.device_put(found, placed.actor), t)


def _has_sums(node: Any) -> bool:
    return hasattr(node, "SUMS")


def _concatenated(trees: Sequence[PyTree], axis: int = 0) -> PyTree:
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, axis), *trees)


def _shares(tree: PyTree, count: int) -> list[PyTree]:
    """A tree of rows as so many of equally many."""

    def share(index: int, x: Array) -> Array:
        size = x.shape[0] // count
        return x[index * size : (index + 1) * size]

    return [jax.tree.map(partial(share, index), tree) for index in range(count)]


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _pair(mind: PolicyParams) -> tuple[Any, Any]:
    return mind.agent, mind.normalizer


def _first_bad(found: list[BadWorld]) -> BadWorld:
    """That of the first part that has seen one."""
    first = found[-1]
    for bad in reversed(found[:-1]):
        first = jax.tree.map(partial(jnp.where, bad.seen), bad, first)
    return first
