"""Off-policy training: collect, store, sample, learn; one compiled call per epoch."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mjx_serl import devices
from mjx_serl.agents.agent import AGENTS, AgentState, OffPolicyAgent, require_off_policy
from mjx_serl.agents.reward_model import Vice, ViceConfig, ViceState, require_demos, unpaid
from mjx_serl.agents.sac import SACConfig
from mjx_serl.data import normalize
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.data.replay import ReplayBuffer, ReplayState, RewardModel, mix
from mjx_serl.envs.judge import Judge, judged_metrics
from mjx_serl.envs.observation import FEATURES, Observer
from mjx_serl.envs.vector import (
    Autoreset,
    VecEnv,
    VecState,
    clear_stats,
    default_pool,
    episode_metrics,
    epoch_pool,
    growth_metrics,
    vectorize,
)
from mjx_serl.training.collect import rollout
from mjx_serl.training.demonstrations import DemoConfig, Demonstrations
from mjx_serl.training.evaluate import TRAIN
from mjx_serl.training.one_agent import OneAgent
from mjx_serl.training.policies import random_policy
from mjx_serl.training.scan import run_once, scan
from mjx_serl.training.sharing import check_divides
from mjx_serl.training.state import PolicyParams, TrainState, shapes_of, tree_bytes
from mjx_serl.training.statistics import observed
from mjx_serl.training.takeover import Takeover, TakeoverConfig
from mjx_serl.training.trainer import METHODS, Ring, Share
from mjx_serl.types import (
    Batch,
    Choice,
    Metrics,
    Obs,
    PRNGKey,
    PyTree,
    Transition,
    one_by_one,
)
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged, require_number
from scenes.contract.serialize import later_field, open_field
from scenes.contract.specs import ObsSpec

ONLINE, DEMOS = "online", "demos"
PEOPLE = "people"  # a ring of what people did, in worlds of their own
PEOPLE_BLOCK = 16  # rows that are written to it at once
POLICY_ACTION = "policy_action"  # beside them, what the policy would have done
VICE, TAKEOVER = "vice", "takeover"  # beside the rings


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The loop around an off-policy agent.

    Attributes:
        batch_size: transitions per critic step.
        updates_per_step: calls of `agent.update` per vector step (each makes the agent's
            `utd_ratio` critic steps).
        demo_fraction: share of each batch drawn from the demonstrations (RLPD: 0.5).
        steps_per_epoch: vector steps per compiled epoch.
        warmup_steps: env steps of uniform actions before learning starts.
        buffer_size: transitions kept.
        normalize_steps: env steps whose statistics scale the observations, frozen afterwards so
            that a trained network's inputs stop moving; 0 uses the scales that the task declares.
        stagger: spread the first time-outs of the worlds over an episode's length.
        pool: prepared starts that ended worlds draw from, drawn anew each epoch: "worlds" is four
            a world, at most 256; "epoch" also grows with `steps_per_epoch` (few worlds and long
            epochs meet more starts).
        grow: step by which the ranges of what the task randomises grow with success, as a share of
            them: from nothing to the whole; 0 draws from the whole from the start.
        pretrain_updates: calls of `agent.update` on demonstrations alone before the first epoch;
            like the warm-up they are not among what a run counts.
    """

    batch_size: int = ranged(256, least=2)
    updates_per_step: int = ranged(16, least=1)
    demo_fraction: float = ranged(0.5, least=0, most=1)
    steps_per_epoch: int = ranged(25, least=1)
    warmup_steps: int = ranged(1000, least=0)
    buffer_size: int = ranged(200_000, least=2)
    normalize_steps: int = ranged(0, least=0)
    stagger: bool = later_field(False)
    pool: Literal["worlds", "epoch"] = later_field("worlds")
    grow: float = later_field(0.0)
    pretrain_updates: int = later_field(0)


# Nobody, who would take over as a person does: after a while, and for a while.
NOBODY = TakeoverConfig(keep="all", attend=0.0, reaction=0.3, hold=0.5, noise=None)


@METHODS.register("off_policy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OffPolicyConfig:
    """Replay and an off-policy agent: SAC, RLPD, DrQ.

    Attributes:
        agent: the learner.
        loop: collection, replay and the number of updates.
        demos: demonstrations.
        vice: a reward learned from the demonstrations' ends in place of the task's.
        takeover: a simulated person, the task's expert, who takes over in the worlds; what it does
            joins the demonstrations, as what people do in HIL-SERL. `attend` 0 is nobody.
    """

    agent: Any = open_field(AGENTS, SACConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    demos: DemoConfig = dataclasses.field(default_factory=DemoConfig)
    vice: ViceConfig = later_field(ViceConfig())
    takeover: TakeoverConfig = later_field(NOBODY)

    def check(self, *, num_envs: int) -> None:
        """Raise ValueError, with what is allowed, for options that do not go together."""
        check_ranges(self)
        loop = self.loop
        require_number("loop.grow", loop.grow, least=0, most=1)
        require_number("loop.pretrain_updates", loop.pretrain_updates, least=0, whole=True)
        if loop.pretrain_updates and not self.has_demos:
            raise InputError(
                f"loop.pretrain_updates {loop.pretrain_updates} without demonstrations, allowed: "
                "0; or --demos.count above 0, or --demos.file FILE"
            )
        agent = self.agent.build()
        require_off_policy(agent, "off_policy")
        check_ranges(self.takeover, path="takeover")
        self.takeover.check()
        if self.takeover.attend:
            require_single_actions(agent, "off_policy with --takeover.attend above 0")
        if loop.steps_per_epoch % agent.horizon:
            raise InputError(
                f"loop.steps_per_epoch {loop.steps_per_epoch}, allowed: a multiple of "
                f"{agent.horizon}, the actions of one choice (agent.horizon)"
            )
        rows = least_rows(agent.n_step)
        if loop.buffer_size < rows * num_envs:
            raise InputError(
                f"loop.buffer_size {loop.buffer_size}, allowed: at least {rows * num_envs}, which "
                f"is {rows} rows (agent.n_step and one) of num_envs {num_envs}"
            )
        if loop.batch_size > loop.buffer_size:
            raise InputError(
                f"loop.batch_size {loop.batch_size}, allowed: at most loop.buffer_size "
                f"{loop.buffer_size}"
            )

    def cautions(self, observer: Observer) -> list[str]:
        """What is allowed and hardly meant: a sparse task without the demonstrations it wants."""
        sparse = getattr(observer.env.task, "sparse", False)
        if self.has_demos or not sparse or not self.loop.demo_fraction:
            return []
        return [
            "this task pays nothing before it is solved, and without demonstrations it may never "
            "be: take --demos.count 20 or --demos.file FILE, a dense task, or "
            "--loop.demo-fraction 0 if this is meant"
        ]

    @property
    def has_demos(self) -> bool:
        """Whether there are demonstrations."""
        return self.demos.count > 0 or self.demos.file is not None

    def pool_size(self, num_envs: int) -> int:
        """Prepared starts of so many worlds."""
        by_epoch = self.loop.pool == "epoch"
        return (
            epoch_pool(num_envs, self.loop.steps_per_epoch) if by_epoch else default_pool(num_envs)
        )

    def label(self, *, images: bool) -> str:
        """What the learner is called in folders and tables."""
        return self.agent.label(images=images, demos=self.has_demos)

    def build(self, observer: Observer, *, num_envs: int) -> "OffPolicy":
        """Return the trainer of an observer's task; InputError for what does not fit it."""
        agent = self.agent.build()
        horizon = agent.horizon
        _check_time_limit(observer, agent.n_step)
        if observer.stack > 1:
            self._check_stack(observer, agent)
        if observer.judge is not None and horizon > 1:
            raise InputError(
                f"--reward.classifier judges the picture of every step, of which an agent with "
                f"horizon {horizon} sees one in {horizon}; allowed: agent.horizon 1"
            )
        if self.vice.updates:
            if observer.judge is not None:
                raise InputError("--vice.updates learns a reward itself: leave out --reward")
            # Nobody tells the worlds that they are solved.
            observer = dataclasses.replace(observer, judge=Judge(observer.env))
        worlds = self.worlds(observer, num_envs=num_envs)
        trainer = self.trainer(worlds, self.demos.build(observer))
        if not self.takeover.attend:
            return trainer
        takeover = self.takeover.build(observer.env)
        return dataclasses.replace(trainer, takeover=takeover, interventions=(ONLINE,))

    def _check_stack(self, observer: Observer, agent: OffPolicyAgent) -> None:
        """Raise InputError for what does not go with stacked pictures."""
        horizon, rows = agent.horizon, least_rows(agent.n_step) + observer.stack - 1
        for wrong, line in (
            (horizon > 1, f"an agent with horizon {horizon}, which no bridge shows every step"),
            (self.vice.updates > 0, "--vice.updates, whose goals are single pictures"),
            (self.loop.buffer_size < rows, f"loop.buffer_size {self.loop.buffer_size}"),
        ):
            if wrong:
                raise InputError(f"--pixels.stack {observer.stack} with {line}, allowed: 1")

    def worlds(self, observer: Observer, *, num_envs: int, autoreset: Autoreset = "pool") -> VecEnv:
        """Return the worlds to act in, not started."""
        return vectorize(
            observer,
            num_envs=num_envs,
            pool_size=self.pool_size(num_envs),
            stagger=self.loop.stagger,
            grow=self.loop.grow,
            autoreset=autoreset,
        )

    def trainer(self, vec_env: VecEnv, demos: Demonstrations | None) -> "OffPolicy":
        """Return the trainer of these worlds, with rings for what they yield and for `demos`."""
        share, num_envs = self.loop.demo_fraction, vec_env.num_envs
        seen = vec_env.observer
        ring = partial(ReplayBuffer, stack=seen.stack, stacked=seen.stacked)
        online = ring(buffer_rows(self.loop, num_envs), num_envs)
        sources = {ONLINE: Source(online, 1.0 if demos is None else 1.0 - share)}
        if demos is not None:
            sources[DEMOS] = Source(ring(*demos.size), share)
        return OffPolicy(
            agent=self.agent.build(),
            vec_env=vec_env,
            sources=sources,
            demos=demos,
            config=self.loop,
            vice=self._vice(vec_env.observer.obs_spec, demos) if self.vice.updates else None,
        )

    def _vice(self, obs: ObsSpec, demos: Demonstrations | None) -> Vice | None:
        """The reward that is learned; InputError without demonstrations."""
        require_demos(demos)
        return self.vice.build(obs, shown(obs))


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a share of each batch comes from.

    Attributes:
        buffer: its ring.
        fraction: of each batch; those of all sources sum to 1.
    """

    buffer: ReplayBuffer
    fraction: float


@dataclasses.dataclass(frozen=True, eq=False)
class OffPolicy(OneAgent):
    """A Trainer whose TrainState.data is one replay ring per source, by name.

    Where the renderer is not `traceable` it is called as it is: its pieces are compiled.

    Attributes:
        agent: what learns.
        vec_env: what it acts in.
        sources: "online" is what `vec_env` yields, "demos" the demonstrations.
        demos: their rows; None without.
        config: the loop.
        takeover: an expert that takes over in the worlds; None nowhere.
        interventions: rings of whose rows an expert's, or a person's, are also drawn among the
            demonstrations (HIL-SERL writes them to both of its buffers).
        people: the ring of what people did (`intervene`); None where nobody can.
        vice: the reward that is learned, whose state is "vice" in the data; None where the stored
            one is learned from.
    """

    agent: OffPolicyAgent
    sources: Mapping[str, Source]
    demos: Demonstrations | None
    config: LoopConfig
    takeover: Takeover | None = None
    interventions: tuple[str, ...] = ()
    people: ReplayBuffer | None = None
    vice: Vice | None = None

    @property
    def buffers(self) -> Mapping[str, ReplayBuffer]:
        """All rings by name."""
        rings = {name: source.buffer for name, source in self.sources.items()}
        return rings if self.people is None else rings | {PEOPLE: self.people}

    @property
    def env_steps_per_epoch(self) -> int:
        """Control steps of all worlds in one epoch."""
        return self.config.steps_per_epoch * self.vec_env.num_envs

    @property
    def least_success(self) -> float:
        """Success rate that the untrained policy must have, as of a frozen base; 0 asks nothing."""
        return getattr(self.agent, "least_success", 0.0)

    @property
    def updates_per_epoch(self) -> int:
        """Critic steps in one epoch."""
        return self.config.steps_per_epoch * self.config.updates_per_step * self.agent.utd_ratio

    def state_shapes(self) -> TrainState:
        """The state as shapes."""
        if self.traceable:
            return jax.eval_shape(self.first_state, jax.random.key(0), self.given_shapes())
        # What cannot be traced has to be made to be measured.
        return shapes_of(self.init(jax.random.key(0)))

    def init(self, key: PRNGKey) -> TrainState:
        """The state before the first epoch, demonstrations and warm-up included."""
        state = run_once(self.first_state, key, self.given(key), traceable=self.traceable)
        return self.pretrained(state)

    def part(self, among: int) -> "OffPolicy":
        """The trainer of one of so many devices that share worlds, rows and batches equally."""
        batch, loop = self.config.batch_size, self.config
        sizes = {"--loop.batch-size": batch}
        if self.vice is not None:
            sizes |= {"half of --vice.batch-size": self.vice.cfg.batch_size // 2}
        check_divides(among, sizes, self.vec_env)
        worlds, online = self.vec_env.part(among), self.sources[ONLINE]
        buffer = dataclasses.replace(online.buffer, num_envs=worlds.num_envs)
        return dataclasses.replace(
            self,
            vec_env=worlds,
            sources={**self.sources, ONLINE: dataclasses.replace(online, buffer=buffer)},
            config=dataclasses.replace(
                loop,
                batch_size=batch // among,
                buffer_size=loop.buffer_size // among,
                warmup_steps=-(-loop.warmup_steps // among),
            ),
            vice=None if self.vice is None else self.vice.part(among),
        )

    def given(self, key: PRNGKey) -> Transition | None:
        """The demonstrations, which are made or read and not traced."""
        return None if self.demos is None else self.demos.rows(key)

    def given_shapes(self) -> Transition | None:
        """The same as shapes."""
        return None if self.demos is None else self.demos.shapes()

    def first_state(self, key: PRNGKey, demos: Transition | None) -> TrainState:
        """The state before the first epoch and any pretraining."""
        k_worlds, key = jax.random.split(jax.random.fold_in(key, TRAIN))
        worlds = self.vec_env.reset(k_worlds)
        k_agent, k_warm, key = jax.random.split(key, 3)
        worlds, steps = self.warm_up(worlds, k_warm)
        rows = {ONLINE: steps} if demos is None else {ONLINE: steps, DEMOS: demos}
        return self._jit_gather(worlds, rows, k_agent, key)

    def gather(
        self, worlds: PyTree, rows: Mapping[str, Transition], k_agent: PRNGKey, key: PRNGKey
    ) -> TrainState:
        """The state before the first epoch: rows [T, N, ...] by source, and a fresh agent."""
        # By the order of the sources: a dict comes out of jit sorted by name.
        rows = {name: rows[name] for name in self.sources if name in rows}
        learned = {}
        if self.vice is not None:
            rows[DEMOS] = unpaid(rows[DEMOS])
            learned[VICE] = self.vice.init(jax.random.fold_in(k_agent, 1), rows[DEMOS])
        stored = {name: self.as_stored(steps) for name, steps in rows.items()}
        example = jax.tree.map(lambda x: x[0, 0], next(iter(stored.values())))
        if self.takeover is not None:
            learned[TAKEOVER] = self.takeover.init(self.vec_env.num_envs)
        if self.people is not None:
            own = {POLICY_ACTION: jnp.zeros(self.vec_env.env.action_dim)}
            learned[PEOPLE] = self.people.init(example.replace(extras=example.extras | own))
        data = {}
        for name, steps in stored.items():
            buffer = self.sources[name].buffer
            data[name] = buffer.add(buffer.init(example), steps)
        obs_spec = self.vec_env.observer.obs_spec
        agent = self.agent.init(k_agent, obs_spec, self.vec_env.env.action_spec)
        state = TrainState(
            agent=self.agent.shown(agent, rows[DEMOS]) if DEMOS in rows else agent,
            worlds=worlds,
            data=data | learned,
            normalizer=self._first_statistics(rows),
            key=key,
            epoch=jnp.zeros((), jnp.int32),
        )
        # Not traced, leaves may share an array, which cannot be donated twice.
        return state if self.traceable else jax.tree.map(jnp.copy, state)

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """`steps_per_epoch` vector steps with their updates; metrics of the epoch."""
        worlds = self._jit_begin(state.worlds)
        state, metrics = scan(
            self._iteration,
            state.replace(worlds=worlds),
            None,
            length=self.config.steps_per_epoch // self.horizon,
            traceable=self.traceable,
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics |= episode_metrics(state.worlds.stats) | growth_metrics(state.worlds.growth)
        metrics |= {} if self.vice is not None else judged_metrics(state.worlds.judged)
        size = self.sources[ONLINE].buffer.size(state.data[ONLINE]).astype(jnp.float32)
        metrics |= {"buffer/size": size, "buffer/fill": size / self.config.buffer_size}
        return state.replace(epoch=optax.safe_increment(state.epoch)), metrics

    def with_people(self, rows: int) -> "OffPolicy":
        """The same trainer with a ring for so many rows of what people do, none of them yet.

        Its epochs leave the ring alone: they are what they are without it, bit for bit. (One that
        looks whether there is anything in it is another program, which rounds otherwise.)
        """
        require_single_actions(self.agent, "off_policy with --pilot")
        seen = self.vec_env.observer
        people = ReplayBuffer(max(rows, PEOPLE_BLOCK), 1, seen.stack, seen.stacked)
        return dataclasses.replace(self, people=people)

    def learning_from_people(self) -> "OffPolicy":
        """The trainer whose epochs learn from that ring, for when there is something in it."""
        return dataclasses.replace(self, interventions=(*self.interventions, PEOPLE))

    def intervene(self, state: TrainState, rows: Transition) -> TrainState:
        """A state that knows rows [`PEOPLE_BLOCK`, 1, ...] of an episode that a person played in.

        All of an episode's rows are given one after the other, up to its end. They are learned
        from where `expert` is true.

        Args:
            state: between two epochs; its ring is used up.
            rows: with the policy's own action among the extras.
        """
        return state.replace(
            data=state.data | {PEOPLE: self._jit_intervene(state.data[PEOPLE], rows)}
        )

    def forget(self, state: TrainState, rows: int) -> TrainState:
        """A state that learns from the newest `rows` of people no more."""
        assert self.people is not None
        ring = jax.jit(self.people.forget)(state.data[PEOPLE], rows)
        return state.replace(data=state.data | {PEOPLE: ring})

    @cached_property
    def _jit_intervene(self) -> Callable[[ReplayState, Transition], ReplayState]:
        people = self.people
        assert people is not None

        def add(ring: ReplayState, rows: Transition) -> ReplayState:
            return people.add(ring, self.as_stored(rows))

        return jax.jit(add, donate_argnums=0)

    def as_stored(self, steps: Transition) -> Transition:
        """Steps as they are stored: with what the agent keeps beside them."""
        steps = steps if self.takeover is None else self.takeover.shown(steps)
        beside = self.agent.beside(steps, self.vec_env.env.action_spec)
        return steps.replace(extras=steps.extras | beside)

    def learn_shown(self, state: TrainState, iterations: int) -> tuple[TrainState, Metrics]:
        """Make the updates of so many iterations on demonstrations alone; metrics of all."""
        demos = Source(self.sources[DEMOS].buffer, 1.0)
        alone = dataclasses.replace(self, sources={DEMOS: demos}, interventions=())
        return alone.learn_stored(state, iterations)

    def learn_stored(self, state: TrainState, iterations: int) -> tuple[TrainState, Metrics]:
        """Make the updates of so many iterations on what is stored; metrics of all."""

        def iteration(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            key, k_sample, k_learn = jax.random.split(state.key, 3)
            agent, metrics = self._learn(state, k_sample, k_learn)
            return state.replace(agent=agent, key=key), metrics

        state, metrics = jax.lax.scan(iteration, state, None, length=iterations)
        return state, jax.tree.map(jnp.mean, metrics)

    def pretrained(self, state: TrainState) -> TrainState:
        """The state after `pretrain_updates` on demonstrations alone; it is used up."""
        pretrain = self.pretraining
        return state if pretrain is None else jax.jit(pretrain, donate_argnums=0)(state)

    @property
    def pretraining(self) -> Callable[[TrainState], TrainState] | None:
        """What makes the updates on demonstrations alone that come before the first epoch."""
        if not self.config.pretrain_updates:
            return None
        iterations = -(-self.config.pretrain_updates // self.config.updates_per_step)
        return lambda state: self.learn_shown(state, iterations)[0]

    def explore(self, params: PolicyParams, obs: Obs, noise: Float[Array, "N H A"]) -> Choice:
        """Choose as in training, with its noise given; InputError of an agent that cannot."""
        return self.agent.explore(params.agent, normalize.normalize(params.normalizer, obs), noise)

    def memory(self, state: TrainState) -> list[Share]:
        """Replay and worlds."""
        stored, buffer = tree_bytes(state.data[ONLINE]), self.sources[ONLINE].buffer
        # Whole rows are stored, up to one fewer than buffer_size asks for.
        size = buffer.capacity_rows * buffer.num_envs
        people = []
        if self.people is not None:
            kept, size_of = self.people.capacity_rows, tree_bytes(state.data[PEOPLE])
            people = [Share("interventions", size_of, "--pilot.rows", kept, PEOPLE_BLOCK)]
        least = max(self.config.warmup_steps, least_rows(self.agent.n_step) * self.vec_env.num_envs)
        return [
            Share("replay buffer", stored, "--loop.buffer-size", size, least),
            self.worlds_share(state),
            *people,
        ]

    def rings(self, state: TrainState) -> list[Ring]:
        """The rings of a state with what its critics think of them."""
        q = partial(self._jit_q, state.agent, state.normalizer)
        rings = {name: x for name, x in state.data.items() if isinstance(x, ReplayState)}
        return [Ring(name, rows, q) for name, rows in rings.items()]

    @cached_property
    def _jit_q(self) -> Callable[..., Array | None]:
        def mean(
            agent: AgentState, normalizer: NormalizerState, obs: Obs, action: Array
        ) -> Array | None:
            seen = normalize.normalize(normalizer, obs)
            q = self.agent.q_values(agent, seen, action)
            return None if q is None else jnp.mean(q, axis=0)

        return jax.jit(mean)

    def warm_up(self, worlds: VecState, key: PRNGKey) -> tuple[VecState, Transition]:
        """Let uniform actions play; the worlds after it, and its rows [T, N]."""
        length = max(
            least_rows(self.agent.n_step), -(-self.config.warmup_steps // self.vec_env.num_envs)
        )
        policy = random_policy(self.vec_env.env.action_dim)
        return rollout(self.vec_env, policy, worlds, devices.own_key(key), length)

    def _iteration(self, state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        if self.horizon > 1:
            return self._chunk_iteration(state)
        state, step = self._jit_advance(state)
        return self._jit_learn(state.replace(worlds=self.vec_env.draw(state.worlds)), step)

    def _chunk_iteration(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One choice of all worlds, played to its end, and the updates of as many steps.

        A world that ends on the way waits for the others (arXiv 2507.07969 queries its policy
        every H steps of one world; here all worlds are asked at once).
        """
        state, chosen = self._jit_choose(state)

        def step(worlds: VecState, xs: tuple[Choice, Array]) -> tuple[VecState, Transition]:
            worlds, row = self._jit_play(worlds, *xs)
            return self.vec_env.draw(worlds), row

        wait = jnp.arange(self.horizon) < self.horizon - 1
        xs = (one_by_one(chosen), wait)
        worlds, steps = scan(step, state.worlds, xs, traceable=self.traceable)
        return self._jit_learn(state.replace(worlds=worlds), steps)

    # Compiled pieces for what is not traced as a whole; inside another jit they are plain calls.

    @cached_property
    def _jit_gather(self) -> Callable[..., TrainState]:
        return jax.jit(self.gather, inline=True)

    @cached_property
    def _jit_begin(self) -> Callable[[VecState], VecState]:
        return jax.jit(lambda worlds: self.vec_env.refresh(clear_stats(worlds)), donate_argnums=0)

    @cached_property
    def _jit_advance(self) -> Callable[[TrainState], tuple[TrainState, Transition]]:
        return jax.jit(self.advance, donate_argnums=0)

    @cached_property
    def _jit_choose(self) -> Callable[[TrainState], tuple[TrainState, Choice]]:
        return jax.jit(self._choose_all, donate_argnums=0)

    @cached_property
    def _jit_play(self) -> Callable[..., tuple[VecState, Transition]]:
        play = self.vec_env.advance
        return jax.jit(lambda worlds, chosen, wait: play(worlds, chosen, wait=wait)[:2])

    @cached_property
    def _jit_learn(self) -> Callable[[TrainState, Transition], tuple[TrainState, Metrics]]:
        return jax.jit(self.learn, donate_argnums=0)

    def advance(self, state: TrainState) -> tuple[TrainState, Transition]:
        """Act in all worlds; their pictures are still those of before."""
        state, chosen = self._choose_all(state)
        worlds, step, _ = self.vec_env.advance(state.worlds, chosen)
        return state.replace(worlds=worlds), step

    def _choose_all(self, state: TrainState) -> tuple[TrainState, Choice]:
        key, k_act = jax.random.split(state.key)
        params = PolicyParams(state.agent, state.normalizer)
        obs = self.vec_env.observe(state.worlds)
        chosen = self.choose(params, obs, k_act, deterministic=False)
        if self.takeover is None:
            return state.replace(key=key), chosen
        every = self.env_steps_per_epoch * devices.count()
        steps = state.epoch.astype(jnp.float32) * every
        k_take = jax.random.fold_in(k_act, 1)
        taken, chosen = self.takeover.choose(
            state.data[TAKEOVER], state.worlds.envs, chosen, k_take, steps
        )
        return state.replace(key=key, data=state.data | {TAKEOVER: taken}), chosen

    def learn(self, state: TrainState, step: Transition) -> tuple[TrainState, Metrics]:
        """Store a step, of a chunk its steps [H, N, ...], and make the updates of each."""
        key, k_sample, k_learn = jax.random.split(state.key, 3)
        stored = self.as_stored(step)
        rows = stored if self.horizon > 1 else jax.tree.map(lambda x: x[None], stored)
        state = state.replace(
            data=state.data | {ONLINE: self.sources[ONLINE].buffer.add(state.data[ONLINE], rows)},
            normalizer=self._observe(state, step),
            key=key,
        )
        told: Metrics = {}
        if self.vice is not None:
            state, told = self._learn_reward(self.vice, state, jax.random.fold_in(k_learn, 1))
        if self.takeover is not None:
            told |= {"takeover/share": jnp.mean(step.expert)}
        if self.horizon == 1:
            agent, metrics = self._learn(state, k_sample, k_learn)
            return state.replace(agent=agent), metrics | told

        # Not of one gather: pictures of all batches of a chunk would be H times as large.
        def learn(agent: AgentState, keys: tuple[PRNGKey, PRNGKey]) -> tuple[AgentState, Metrics]:
            return self._learn(state.replace(agent=agent), *keys)

        keys = (jax.random.split(k_sample, self.horizon), jax.random.split(k_learn, self.horizon))
        agent, metrics = jax.lax.scan(learn, state.agent, keys)
        return state.replace(agent=agent), jax.tree.map(jnp.mean, metrics) | told

    def _first_statistics(self, seen: Mapping[str, Transition]) -> NormalizerState:
        spec = self.vec_env.observer.obs_spec
        if self.config.normalize_steps == 0:
            return normalize.init(spec, scaled=True)
        statistics = normalize.init(spec)
        for name, steps in seen.items():
            seen_first = self.vec_env.observer.as_at_start(steps.obs)
            # Devices have worlds of their own, and all of them the same demonstrations.
            valid = steps.valid if name == ONLINE else devices.once(steps.valid)
            statistics = normalize.update(statistics, seen_first, valid)
        return statistics

    def _observe(self, state: TrainState, step: Transition) -> NormalizerState:
        """Observation statistics, frozen after `normalize_steps`."""
        return observed(
            state,
            self.vec_env.observer.as_at_start(step.obs),
            step.valid,
            steps=self.config.normalize_steps,
            steps_per_epoch=self.env_steps_per_epoch * devices.count(),
        )

    def _learn(
        self, state: TrainState, k_sample: PRNGKey, k_learn: PRNGKey
    ) -> tuple[AgentState, Metrics]:
        updates = self.config.updates_per_step
        # One gather for all updates of the step.
        batches = self._sample(state, k_sample, updates, reward_of=self._reward_of(state))

        def learn(agent: AgentState, xs: tuple[Batch, PRNGKey]) -> tuple[AgentState, Metrics]:
            return self.agent.update(agent, *xs)

        agent, metrics = jax.lax.scan(
            learn, state.agent, (batches, jax.random.split(k_learn, updates))
        )
        return agent, jax.tree.map(jnp.mean, metrics)

    def _learn_reward(
        self, vice: Vice, state: TrainState, key: PRNGKey
    ) -> tuple[TrainState, Metrics]:
        """The classifier's steps of an iteration, and how right it is about the worlds."""
        k_visited, k_learn = jax.random.split(key)
        shape = (vice.cfg.updates, vice.cfg.batch_size // 2)
        visited = self.sources[ONLINE].buffer.sample(state.data[ONLINE], k_visited, shape).next_obs

        def learn(inner: ViceState, xs: tuple[Obs, PRNGKey]) -> tuple[ViceState, Metrics]:
            return vice.update(inner, *xs)

        keys = jax.random.split(k_learn, vice.cfg.updates)
        inner, metrics = jax.lax.scan(learn, state.data[VICE], (visited, keys))
        said = vice.says(inner, self.vec_env.observe(state.worlds))
        true = state.worlds.envs.success
        metrics = jax.tree.map(jnp.mean, metrics) | {
            "vice/said": said.mean(),
            "vice/true": true.mean(),
            "vice/false_positives": (said & ~true).mean(),
        }
        return state.replace(data=state.data | {VICE: inner}), metrics

    def _reward_of(self, state: TrainState) -> RewardModel | None:
        """What replaces the stored rewards of a batch."""
        return None if self.vice is None else partial(self.vice.reward, state.data[VICE])

    def _sample(
        self,
        state: TrainState,
        key: PRNGKey,
        updates: int,
        reward_of: RewardModel | None = None,
    ) -> Batch:
        shape = (updates, self.config.batch_size * self.agent.utd_ratio)
        sampler = mix(
            [source.fraction for source in self.sources.values()],
            [source.buffer for source in self.sources.values()],
        )
        states = [state.data[name] for name in self.sources]
        span = {"n_step": self.agent.n_step, "gamma": self.agent.gamma}
        span |= {"horizon": self.agent.horizon, "reward_of": reward_of}
        batch = sampler.sample(states, key, shape, **span)
        for i, name in enumerate(self.interventions):
            batch = self._intervened(state, batch, jax.random.fold_in(key, i), name, span)
        scale = partial(normalize.normalize, state.normalizer)
        return batch.replace(obs=scale(batch.obs), next_obs=scale(batch.next_obs))

    def _intervened(
        self, state: TrainState, batch: Batch, key: PRNGKey, ring: str, span: Mapping[str, Any]
    ) -> Batch:
        """A batch whose demonstrations' share is drawn from them and a ring's interventions.

        They are drawn as if they were one ring. While there are no interventions the batch stays,
        bit for bit; where there are no demonstrations they have the share to themselves.
        """
        k_take, k_rows = jax.random.split(key)
        buffer, rows = self.buffers[ring], state.data[ring]
        updates, size = batch.reward.shape
        share = round(size * self.config.demo_fraction)
        among = buffer.experts(rows, n_step=self.agent.n_step)
        shown = self.sources[DEMOS].buffer.size(state.data[DEMOS]) if DEMOS in self.sources else 0

        def drawn() -> Batch:
            other = buffer.sample(rows, k_rows, (updates, share), among=among, **span)
            other = other.replace(extras={name: other.extras[name] for name in batch.extras})
            # Of many devices each has its own interventions, and all demonstrations.
            own = among[-1] * devices.count()
            take = jax.random.uniform(k_take, (updates, share)) * (own + shown) < own

            def put(old: Array, new: Array) -> Array:
                mine = take.reshape(*take.shape, *[1] * (old.ndim - 2))
                return old.at[:, size - share :].set(jnp.where(mine, new, old[:, size - share :]))

            return jax.tree.map(put, batch, other)

        return jax.lax.cond(among[-1] > 0, drawn, lambda: batch)


def shown(obs: ObsSpec) -> list[str]:
    """Names of the fields that show a state: pictures or their features, else all that is seen."""
    pictures = [field.name for field in obs.of_kind("image")]
    features = [field.name for field in obs.fields if field.name == FEATURES]
    return pictures or features or list(obs.policy.names)


def require_single_actions(agent: OffPolicyAgent, method: str) -> None:
    """Raise InputError for an agent of action chunks, which this method does not play."""
    if agent.horizon > 1:
        raise InputError(
            f"--method {method} plays single actions, got an agent with horizon {agent.horizon}; "
            "allowed: agent.horizon 1, or --method off_policy"
        )


def _check_time_limit(observer: Observer, n_step: int) -> None:
    """Raise InputError where no episode that the time limit ends could be learned from."""
    limit = observer.env.task.episode_steps
    if n_step >= limit:
        raise InputError(
            f"agent.n_step {n_step} (agent.horizon included), allowed: less than the time "
            f"limit of '{observer.env.name}', {limit} control steps: a span of rewards that "
            "the limit cuts off is not learned from"
        )


def least_rows(n_step: int) -> int:
    """Rows that hold one transition to learn from and what followed it."""
    return n_step + 1


def buffer_rows(config: LoopConfig, num_envs: int) -> int:
    """Rows of a replay buffer that holds `buffer_size` transitions and the warm-up."""
    return max(config.buffer_size // num_envs, -(-config.warmup_steps // num_envs), 2)
