"""SAC for the arm and a DQN for its grippers: HIL-SERL's hybrid agent, of one arm or several.

SAC acts in, and its critics judge, the continuous entries of an action alone. What the grippers do
is one choice among a few (`agents.choices`), made by a network of their own on the features that
SAC's policy reads: acting takes its best choice always, so it is explored by warm-up,
demonstrations and interventions. Its target is double DQN's with SAC's discount and rate tau, and
its reward has a penalty where a gripper is told to open or close (reference serl_family.md 1.3,
`sac_hybrid_single.py`, `sac_hybrid_dual.py`). Features are given to it and not trained: SAC's
critics train the encoder, as they do for the actor.
"""

from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AGENTS, AgentConfig, OffPolicyAgent
from mjx_serl.agents.choices import changes, choices_of, role_and_name
from mjx_serl.agents.minibatches import take_minibatch
from mjx_serl.agents.networks import build_mlp
from mjx_serl.agents.optimizer import Trainable, apply_gradients, count_skipped, trainable
from mjx_serl.agents.sac import SAC, SACConfig, SACState
from mjx_serl.nets.augment import crop_batch
from mjx_serl.nets.encoders import ObsEncoder
from mjx_serl.nets.mlp import MLP, ComputeDtype, forward
from mjx_serl.types import Batch, Choice, Metrics, Obs, PRNGKey, PyTree, Transition, choice
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.specs import ActionSpec, ObsSpec

GRASP_PENALTY = "grasp_penalty"  # beside each stored transition
COMMANDED = "gripper_command"  # the observation that says how far a gripper is told to be closed


@AGENTS.register("hybrid")
@dataclass(frozen=True, kw_only=True)
class HybridConfig(AgentConfig):
    """Hyper-parameters of the hybrid agent; the defaults are HIL-SERL's.

    Attributes:
        sac: of the continuous part; the other network has its widths, activation, optimiser,
            discount, tau and number of critic steps. Where `target_entropy` is None it is half of
            the whole action's dimension, grippers included.
        grasp_penalty: what it costs the grippers' network alone to open or close one [reward].
    """

    sac: SACConfig = field(default_factory=SACConfig)
    grasp_penalty: float = ranged(0.02, least=0)

    def build(self) -> "Hybrid":
        """Return the agent; raises ValueError on a field outside its range, KeyError on a name."""
        check_ranges(self)
        self.sac.build()
        if self.sac.horizon > 1:
            raise InputError(
                f"HybridConfig: sac.horizon {self.sac.horizon}, allowed: 1, as a gripper is chosen "
                "anew at every step"
            )
        return Hybrid(self)


@struct.dataclass
class HybridState:
    """Everything the agent learns."""

    sac: SACState  # of the continuous entries
    grasp: Trainable  # value of each choice
    grasp_target: PyTree
    skipped: Int[Array, ""]  # steps of `grasp` dropped because they were not finite
    action: ActionSpec = struct.field(pytree_node=False)  # all entries


@dataclass(frozen=True)
class Hybrid(OffPolicyAgent):
    """The agent a `HybridConfig` builds; see `OffPolicyAgent` for what its methods promise."""

    cfg: HybridConfig

    @property
    def utd_ratio(self) -> int:
        """Critic steps per `update`, each with one of the grippers' network."""
        return self.cfg.sac.utd_ratio

    @property
    def n_step(self) -> int:
        """Rewards summed in a batch; of penalties that of the first row counts."""
        return self.cfg.sac.n_step

    @property
    def gamma(self) -> float:
        """Discount per control step."""
        return self.cfg.sac.gamma

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> HybridState:
        """Draw a fresh state.

        Raises ValueError for observations the encoder cannot read, or actions without a gripper.
        """
        sac_key, grasp_key = jax.random.split(key)
        sac = self._sac(action).init(sac_key, obs, choices_of(action).continuous)
        net, encoder = self._grasp_net(sac, action)
        params = net.init(grasp_key, jnp.zeros((1, encoder.dim)))
        return HybridState(
            sac=sac,
            grasp=trainable(self._optimizer(action), params),
            grasp_target=jax.tree.map(jnp.copy, params),
            skipped=jnp.int32(0),
            action=action,
        )

    def act(
        self, state: HybridState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        """SAC's action with the best choice of what the grippers do."""
        moved = self._sac(state.action).act(state.sac, obs, key, deterministic=deterministic)
        return self._with_grasp(state, obs, moved)

    def explore(self, state: HybridState, obs: Obs, noise: Float[Array, "N H A"]) -> Choice:
        """SAC's sample with the best choice of what the grippers do, which draws nothing."""
        moves = choices_of(state.action).split(noise)
        moved = self._sac(state.action).explore(state.sac, obs, moves)
        return self._with_grasp(state, obs, moved)

    def _with_grasp(self, state: HybridState, obs: Obs, moved: Choice) -> Choice:
        best = jnp.argmax(self.grasp_values(state, obs), axis=-1)
        return choice(choices_of(state.action).joined(moved.action[:, 0], best))

    def q_values(
        self, state: HybridState, obs: Obs, action: Float[Array, "B A"]
    ) -> Float[Array, "E B"]:
        """Return Q of SAC's critics, which know the continuous entries alone."""
        moved = choices_of(state.action).split(action)
        return self._sac(state.action).q_values(state.sac, obs, moved)

    def grasp_values(self, state: HybridState, obs: Obs) -> Float[Array, "B K"]:
        """Value of each choice."""
        return self._values(state, state.grasp.params, self._features(state, obs))

    def acting(self, state: HybridState) -> HybridState:
        """SAC's actor and encoder and the grippers' network; neither critics nor optimisers."""
        return state.replace(
            sac=self._sac(state.action).acting(state.sac),
            grasp=state.grasp.bare(),
            grasp_target=None,
            skipped=None,
        )

    def learned(self, state: HybridState) -> HybridState:
        """All networks and the temperature, without optimisers and counters."""
        return state.replace(
            sac=self._sac(state.action).learned(state.sac),
            grasp=state.grasp.bare(),
            skipped=None,
        )

    def begun(self, state: HybridState) -> HybridState:
        """What follows from parameters of another run."""
        return state.replace(sac=self._sac(state.action).begun(state.sac))

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of its networks are made of."""
        return self.cfg.sac.compute_dtype

    def exact(self) -> "Hybrid":
        """The same agent with float32 products."""
        return Hybrid(replace(self.cfg, sac=replace(self.cfg.sac, compute_dtype="float32")))

    def beside(self, steps: Transition, action: ActionSpec) -> dict[str, Shaped[Array, "..."]]:
        """The penalty of each step: for every gripper that is told to open or close.

        Raises InputError where the observation does not say how far one is told to be closed.
        """
        if self.cfg.grasp_penalty == 0.0:
            return {}
        commands, told = [], []
        for i in choices_of(action).chosen:
            name = f"{role_and_name(action.names[i])[0]}{COMMANDED}"
            if name not in steps.obs:
                raise InputError(
                    f"hybrid: nothing observed says whether '{action.names[i]}' is open ('{name}' "
                    f"is not among {', '.join(steps.obs)}), allowed: --agent.grasp-penalty 0"
                )
            commands.append(steps.obs[name][..., 0])
            told.append(steps.action[..., i])
        return {GRASP_PENALTY: -self.cfg.grasp_penalty * changes(commands, told)}

    def update(self, state: HybridState, batch: Batch, key: PRNGKey) -> tuple[HybridState, Metrics]:
        """Make SAC's update, then as many steps of the grippers' network as critic steps.

        Raises ValueError at trace time if the batch does not divide by `utd_ratio`, or lacks the
        penalties.
        """
        if self.cfg.grasp_penalty and GRASP_PENALTY not in batch.extras:
            raise InputError(
                f"hybrid: a batch without '{GRASP_PENALTY}', allowed: one with `beside` stored"
            )
        sac_key, grasp_key = jax.random.split(key)
        moves = batch.replace(action=choices_of(state.action).split(batch.action))
        sac, metrics = self._sac(state.action).update(state.sac, moves, sac_key)
        count = self.utd_ratio
        state, found = jax.lax.scan(
            partial(self._grasp_step, batch),
            state.replace(sac=sac),
            (jnp.arange(count), jax.random.split(grasp_key, count)),
        )
        metrics |= jax.tree.map(jnp.mean, found)
        metrics["learner/skipped_updates"] += state.skipped.astype(jnp.float32)
        return state, metrics

    def _grasp_step(
        self, batch: Batch, state: HybridState, inputs: tuple[Int[Array, ""], PRNGKey]
    ) -> tuple[HybridState, Metrics]:
        """One step of the grippers' network on minibatch `index`."""
        index, key = inputs
        cfg, batch = self.cfg.sac, take_minibatch(batch, index, self.utd_ratio)
        cameras = state.sac.obs.of_kind("image")
        batch = crop_batch(key, batch, cfg.crop, cameras=[camera.name for camera in cameras])
        features = self._features(state, batch.obs)
        target = self._target(state, batch)
        number = choices_of(state.action).number(batch.action)

        def loss_fn(params: PyTree) -> tuple[Array, Array]:
            values = self._values(state, params, features)
            q = jnp.take_along_axis(values, number[:, None], axis=-1)[:, 0]
            return objectives.critic_loss(q[None], target), jnp.mean(q)

        (loss, q), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.grasp.params)
        grasp, finite = apply_gradients(self._optimizer(state.action), state.grasp, grads)
        state = state.replace(
            grasp=grasp,
            grasp_target=optax.incremental_update(grasp.params, state.grasp_target, cfg.tau),
            skipped=count_skipped(state.skipped, finite),
        )
        return state, {"learner/grasp_loss": loss, "learner/grasp_q": q}

    def _target(self, state: HybridState, batch: Batch) -> Float[Array, " B"]:
        """What the grippers' network is fitted to."""
        cfg = self.cfg.sac
        later = self._features(state, batch.next_obs)
        held = self._features(state, batch.next_obs, target=True)
        penalty = batch.extras[GRASP_PENALTY] if self.cfg.grasp_penalty else 0.0
        return objectives.double_dqn_target(
            batch.reward + penalty,
            batch.terminated,
            self._values(state, state.grasp.params, later),
            self._values(state, state.grasp_target, held),
            cfg.gamma**cfg.n_step,
        )

    # -- pieces ------------------------------------------------------------------------------

    def _features(
        self, state: HybridState, obs: Obs, *, target: bool = False
    ) -> Float[Array, "B D"]:
        return self._sac(state.action).policy_features(state.sac, obs, target=target)

    def _values(
        self, state: HybridState, params: PyTree, features: Float[Array, "B D"]
    ) -> Float[Array, "B K"]:
        net, _ = self._grasp_net(state.sac, state.action)
        return forward(net, params, features)

    def _grasp_net(self, sac: SACState, action: ActionSpec) -> tuple[MLP, ObsEncoder]:
        cfg = self.cfg.sac
        encoder = ObsEncoder(cfg.encoder, sac.obs, cfg.compute_dtype).policy
        return build_mlp(cfg, encoder, len(choices_of(action).values)), encoder

    def _sac(self, action: ActionSpec) -> SAC:
        cfg = self.cfg.sac
        if cfg.target_entropy is None:
            cfg = replace(cfg, target_entropy=-action.dim / 2)
        return SAC(cfg)

    def _optimizer(self, action: ActionSpec) -> optax.GradientTransformation:
        return self._sac(action).optimizer
