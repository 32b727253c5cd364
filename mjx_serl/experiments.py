"""Named presets: one small function each, with its command, machine, time and result."""

import dataclasses
from collections.abc import Callable

import jax

from mjx_serl.agents.agent import AgentConfig
from mjx_serl.agents.bc import BCConfig
from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.dsrl import DSRLConfig
from mjx_serl.agents.flow_ppo import FlowPPOConfig, ImitationConfig
from mjx_serl.agents.hybrid import HybridConfig
from mjx_serl.agents.ppo import PPOConfig
from mjx_serl.agents.qc import QCConfig
from mjx_serl.agents.residual import ResidualConfig
from mjx_serl.agents.reward_model import ViceConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.config import EvalConfig, RunConfig, TrainConfig
from mjx_serl.envs.appearance import LookConfig
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.nets.velocity_vla import VLAVelocityConfig
from mjx_serl.registry import Registry
from mjx_serl.training.dagger import HGDAggerConfig
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig
from mjx_serl.training.offline import OfflineConfig
from mjx_serl.training.on_policy import OnPolicyConfig, OnPolicyLoopConfig
from mjx_serl.training.on_policy_chunks import ChunkLoopConfig, OnPolicyChunksConfig
from mjx_serl.training.pair import PairConfig
from scenes.contract.language import TokenizerConfig
from scenes.contract.names import require_fields

PRESETS: Registry[Callable[[], TrainConfig]] = Registry("preset")


@PRESETS.register("laptop")
def laptop() -> TrainConfig:
    """RLPD sized for two CPU cores: `make train`. Figures: benchmarks/RESULTS.md."""
    # Neither staggered nor paced: both took longer to 95 % (docs/deploy.md, section 1).
    return TrainConfig(
        preset="laptop",
        num_envs=16,
        method=OffPolicyConfig(
            agent=SACConfig(
                lr=6e-4, target_entropy=-3.0, bc_weight=0.1, n_step=4, actor_average=0.995
            ),
            loop=LoopConfig(updates_per_step=16, pool="epoch"),
        ),
    )


@PRESETS.register("qc_rlpd")
def qc_rlpd() -> TrainConfig:
    """The laptop preset whose actor and critics know five actions as one (QC-RLPD).

    `python train.py --preset qc_rlpd`. Horizon and the H-step return: arXiv 2507.07969 section 5;
    all else is laptop's, its entropy of each action too. It is slower than laptop where laptop is
    quick: seed 0 took 12k env steps to a check above 90 % on franka/pick_cube (laptop 4k), and 18k
    on franka/peg_insertion (laptop 8k).
    """
    base, horizon = laptop(), 5
    agent = dataclasses.replace(
        base.method.agent, horizon=horizon, n_step=horizon, target_entropy=-3.0 * horizon
    )
    method = dataclasses.replace(base.method, agent=agent)
    return dataclasses.replace(base, preset="qc_rlpd", method=method)


@PRESETS.register("qc")
def qc() -> TrainConfig:
    """Q-chunking with a one-step actor (QC-FQL) sized for two CPU cores.

    `python train.py --preset qc`; `--agent.actor best_of` is QC itself, whose every target asks the
    critics about `--agent.candidates` samples. Numbers: arXiv 2507.07969 section 5 but for smaller
    networks and laptop's discount, updates and batches. Seed 0 on franka/pick_cube: 96 % of a check
    after 6k env steps (laptop 94 % after 4k), at a fraction of laptop's updates per second.
    """
    base = laptop()
    agent = QCConfig(
        actor="one_step", gamma=0.97, lr=6e-4, hidden=(256, 256), flow=FlowNetConfig(steps=5)
    )
    method = dataclasses.replace(base.method, agent=agent)
    return dataclasses.replace(base, preset="qc", method=method)


@PRESETS.register("expo")
def expo() -> TrainConfig:
    """EXPO sized for two CPU cores: the best of a flow's actions and small edits of them.

    `python train.py --preset expo`. Candidates, edits and single actions as in arXiv 2507.07986;
    networks, discount, updates and batches are laptop's.
    """
    base = qc()
    agent = dataclasses.replace(
        base.method.agent, actor="edited", horizon=1, candidates=4, critic_ensemble_size=2
    )
    method = dataclasses.replace(base.method, agent=agent)
    return dataclasses.replace(base, preset="expo", method=method)


@PRESETS.register("residual")
def residual() -> TrainConfig:
    """A bounded correction over the policy of an earlier run, which stays as it is.

    `python train.py --preset residual --init runs/NAME` with that run's task. What the base
    reaches is printed first; below 2 % nothing is trained. The exploration is the base's with
    noise, so there is no warm-up of random actions. Seed 0 over a laptop run of 2k env steps on
    franka/pick_cube: from 75 % to 90 % of a check in 4k env steps.
    """
    return _over_a_base("residual", ResidualConfig())


def _over_a_base(preset: str, agent: AgentConfig) -> TrainConfig:
    """What agents over an earlier run share: no warm-up of random actions, fewer updates."""
    base = laptop()
    loop = dataclasses.replace(base.method.loop, updates_per_step=4, warmup_steps=0)
    method = dataclasses.replace(base.method, agent=agent, loop=loop)
    return dataclasses.replace(base, preset=preset, method=method)


@PRESETS.register("dsrl")
def dsrl() -> TrainConfig:
    """A flow policy steered by the noise that it starts from, which stays as it is.

    `python train.py --method offline --agent flow_bc --task T`, then `python train.py --preset dsrl
    --init runs/NAME --task T`. Formulas and most numbers: arXiv 2506.15799; networks, discount and
    updates are laptop's. What the base reaches is printed first; below 2 % nothing is trained.
    """
    return _over_a_base("dsrl", DSRLConfig())


@PRESETS.register("robot")
def robot() -> TrainConfig:
    """The laptop preset at a real arm's pace: what is trained here can be deployed.

    `python train.py --preset robot`, then `python deploy.py RUN --robot sim`. Targets are followed
    no faster than the bridge's governor lets an arm go. Figures: benchmarks/RESULTS.md.
    """
    return dataclasses.replace(laptop(), preset="robot", task="franka/pick_cube_paced")


@PRESETS.register("precise")
def precise() -> TrainConfig:
    """The laptop preset for fits of tenths of a millimetre: exploration as fine as the fit.

    `python train.py --preset precise --task franka/pcb_insertion`. With laptop's entropy a training
    episode of that task never ends seated (steps are disturbed by some 2 mm, the slot gives 0.2):
    its value is learned from demonstrations alone, and success comes and goes (60 to 97 %).
    """
    base = laptop()
    agent = dataclasses.replace(base.method.agent, target_entropy=-9.0)
    method = dataclasses.replace(base.method, agent=agent)
    return dataclasses.replace(base, preset="precise", method=method)


@PRESETS.register("sac")
def sac() -> TrainConfig:
    """Plain SAC on a dense reward: no demonstrations, single rewards, a longer view.

    `python train.py --preset sac`. With laptop's numbers and no demonstrations that task is not
    learned: it pays next to nothing beyond 20 cm, and at 50 Hz a discount of 0.97 sees 0.7 s ahead.
    """
    base = laptop()
    agent = dataclasses.replace(
        base.method.agent,
        gamma=0.99,
        n_step=1,
        bc_weight=0.0,
        target_entropy=-2.0,
        init_temperature=0.1,
    )
    method = dataclasses.replace(base.method, agent=agent, demos=DemoConfig(count=0))
    return dataclasses.replace(
        base,
        preset="sac",
        task="franka/pick_cube_dense",
        method=method,
    )


@PRESETS.register("ppo")
def ppo() -> TrainConfig:
    """PPO on a dense reward, sized for two CPU cores: no demonstrations, no replay.

    `python train.py --preset ppo`. An action of that task moves the hand by up to 10 cm, so the arm
    explores finely; its gripper, which nothing pays for before it holds the cube, widely and for
    several steps at a time. Seeds 0, 1 and 2: 98, 99 and 99 % of 100 held-out episodes after 0.9M,
    0.7M and 0.8M env steps, in 2.9, 2.1 and 2.7 minutes of two cores that did other things too
    (`python -m benchmarks.methods --only franka/pick_cube_dense --methods ppo --seeds 0 1 2`). What
    acts without noise is an average: the newest policy's checks come and go between 87 and 100 %.
    """
    agent = PPOConfig(
        activation="swish",
        gamma=0.97,
        reward_scale=0.3,
        clip_value=None,
        entropy_weight=0.004,
        gripper_entropy_weight=0.03,
        init_std=0.3,
        gripper_std=1.5,
        lr_schedule="adaptive",
        target_kl=0.02,
        stop_kl=0.1,
        actor_average=0.998,
    )
    return TrainConfig(
        preset="ppo",
        task="franka/pick_cube_dense",
        num_envs=128,
        total_env_steps=3_000_000,
        method=OnPolicyConfig(
            agent=agent, loop=OnPolicyLoopConfig(rollout_steps=32, gripper_correlation=0.9)
        ),
        eval=EvalConfig(every_epochs=20, stop_at=0.97),
    )


@PRESETS.register("flow_ppo")
def flow_ppo() -> TrainConfig:
    """A flow policy of action chunks: 50 demonstrations imitated, then PPO by Flow-SDE.

    `python train.py --preset flow_ppo`; docs/vla.md. Of 50 demonstrations imitation alone solves
    nearly all; of 5 (`--demos.count 5`), seed 1: 55 % of 256 held-out episodes after imitation,
    87 % after 384k env steps of PPO, in 2.9 minutes of two cores' processor time on a machine that
    did other things too (`python -m benchmarks.flow_ppo --cases 5_demonstrations --seeds 1`).
    Discount and step size were chosen on seed 0.
    """
    agent = FlowPPOConfig(gamma=0.9, gae_lambda=0.9, stop_kl=0.2, actor_average=0.99)
    return TrainConfig(
        preset="flow_ppo",
        task="franka/put_cube_on_plate",
        num_envs=128,
        total_env_steps=1_600_000,
        method=OnPolicyChunksConfig(agent=agent, loop=ChunkLoopConfig(rollout_chunks=10)),
        eval=EvalConfig(every_epochs=20, episodes=256, stop_at=0.97),
    )


@PRESETS.register("flow_ppo_pixels")
def flow_ppo_pixels() -> TrainConfig:
    """The flow policy from one 64 px camera and words: a small pi0, imitation, then PPO.

    `python train.py --preset flow_ppo_pixels --init EYES`, of a net that `python -m
    mjx_serl.pretraining EYES --vla` has taught to see: docs/vla.md. The net is openpi's graph for
    a CPU, all of which is learned; only its critic knows where cube and plate are.
    """
    base = flow_ppo()
    agent = dataclasses.replace(
        base.method.agent,
        net=VLAVelocityConfig(),
        imitation=ImitationConfig(decay=1000, crop=2, misheard=0.3),
    )
    loop = dataclasses.replace(base.method.loop, pretrain_updates=1000, batch_size=64)
    return dataclasses.replace(
        base,
        preset="flow_ppo_pixels",
        task="franka/put_cube_on_plate_instructed",
        total_env_steps=256_000,
        pixels=PixelConfig(cameras=("third",), critic_obs=True),
        tokenizer=TokenizerConfig(name="words", slots=12),
        method=dataclasses.replace(base.method, agent=agent, loop=loop),
        run=RunConfig(checkpoint_seconds=120.0),
    )


@PRESETS.register("pixels")
def pixels() -> TrainConfig:
    """DrQ with demonstrations, end to end from two 64 px cameras, on two CPU cores.

    `python train.py --preset pixels`. The cube's position is not observed. Two cores beside other
    jobs: 96 and 93 % of 100 held-out episodes on seeds 0 and 1, in 9 and 12 minutes.
    """
    return TrainConfig(
        preset="pixels",
        num_envs=8,
        total_env_steps=30_000,
        pixels=PixelConfig(cameras=("front", "wrist")),
        method=OffPolicyConfig(
            agent=SACConfig(lr=6e-4, target_entropy=-3.0, bc_weight=0.1, n_step=4),
            loop=LoopConfig(
                updates_per_step=8, buffer_size=30_000, steps_per_epoch=25, pool="epoch"
            ),
        ),
        eval=EvalConfig(every_epochs=10, check_episodes=50, stop_at=0.95),
        run=RunConfig(checkpoint_seconds=120.0),
    )


@PRESETS.register("pixels_frozen")
def pixels_frozen() -> TrainConfig:
    """RLPD on the features of a frozen encoder that ships with us: pixels at state speed.

    `python train.py --preset pixels_frozen`; `python -m mjx_serl.pretraining` makes the
    encoder. Two cores beside other jobs: 98 and 96 % on seeds 0 and 1, in under 3.5 minutes.
    """
    return dataclasses.replace(
        laptop(),
        preset="pixels_frozen",
        pixels=PixelConfig(cameras=("front", "wrist"), frozen="pick_cube"),
    )


@PRESETS.register("pixels_varied")
def pixels_varied() -> TrainConfig:
    """The frozen encoder's preset where physics, delays, cameras and light vary.

    `python train.py --preset pixels_varied`. Its encoder has learned from cameras that are mounted
    elsewhere in every look (`python -m mjx_serl.pretraining OUT.npz --task
    franka/pick_cube_randomized --pixels.look.variants 96 --pixels.look.camera-position 0.012
    --pixels.look.camera-angle 1.8 --pixels.look.color 0.25 --pixels.look.light 0.35 --train.rounds
    8 --train.updates 36000`). It ends with the grid of extremes, and imitates 400 demonstrations:
    with laptop's 20 and its weight the slippery corners took 120,000 env steps, and with 200 and
    `--agent.bc-weight 5` they were lost again between 6,000 and 10,000.
    """
    look = LookConfig(variants=33, camera_position=0.012, camera_angle=1.8, color=0.2, light=0.3)
    base = pixels_frozen()
    return dataclasses.replace(
        base,
        preset="pixels_varied",
        task="franka/pick_cube_randomized",
        pixels=dataclasses.replace(
            base.pixels, frozen="pick_cube_varied", look=look, critic_obs=True
        ),
        method=dataclasses.replace(
            base.method,
            agent=dataclasses.replace(base.method.agent, bc_weight=20.0),
            demos=DemoConfig(count=400),
        ),
        eval=dataclasses.replace(base.eval, grid=100),
    )


@PRESETS.register("serl")
def serl() -> TrainConfig:
    """SERL's state agent: ten critics, two per target, eight critic steps per actor step.

    `python train.py --preset serl`; numbers: reference serl_family.md 1.3, `make_sac_agent`.
    Its Adam clocks are shared with zero gradients, as in its `update_high_utd`. Eight steps of ten
    critics an env step make 13 env steps/s of two cores, which is hours for a run: to solve the
    task take `sac` (4.3 minutes), to compare with SERL this.
    """
    return TrainConfig(
        preset="serl",
        task="franka/pick_cube_dense",
        num_envs=1,
        method=OffPolicyConfig(
            agent=SACConfig(
                critic_ensemble_size=10,
                critic_subsample_size=2,
                gamma=0.99,
                lr_warmup_steps=2000,
                utd_ratio=8,
                adam_ticks="shared_apart",
            ),
            loop=LoopConfig(
                updates_per_step=1,
                warmup_steps=300,
                buffer_size=1_000_000,
                steps_per_epoch=100,
                pool="epoch",
            ),
            demos=DemoConfig(count=0),
        ),
        eval=EvalConfig(every_epochs=20, check_episodes=20),
    )


@PRESETS.register("hil_serl")
def hil_serl() -> TrainConfig:
    """HIL-SERL's learner: two critics, two critic steps per actor step, half demonstrations.

    `python train.py --preset hil_serl`; numbers: reference serl_family.md 1.3, HIL column.
    """
    return TrainConfig(
        preset="hil_serl",
        num_envs=1,
        method=OffPolicyConfig(
            agent=SACConfig(gamma=0.97, utd_ratio=2, adam_ticks="shared"),
            loop=LoopConfig(
                updates_per_step=1, warmup_steps=100, steps_per_epoch=100, pool="epoch"
            ),
        ),
        eval=EvalConfig(every_epochs=20, check_episodes=20),
    )


@PRESETS.register("hybrid")
def hybrid() -> TrainConfig:
    """HIL-SERL's hybrid agent: SAC moves the arm, a DQN opens and closes the gripper.

    `python train.py --preset hybrid`; numbers: reference serl_family.md 1.3, HIL hybrid gripper.
    franka/pick_cube, seed 0: 87 % of 100 held-out episodes after 10,000 env steps.
    """
    base = hil_serl()
    method = dataclasses.replace(base.method, agent=HybridConfig(sac=base.method.agent))
    return dataclasses.replace(base, preset="hybrid", method=method)


@PRESETS.register("hybrid_laptop")
def hybrid_laptop() -> TrainConfig:
    """The hybrid agent at laptop's pace: 16 worlds, an update per world and step.

    `python train.py --preset hybrid_laptop`. Where warm-up and demonstrations do not tell when to
    close the gripper nothing else will: its network always takes what it holds for best.
    """
    base = laptop()
    sac = dataclasses.replace(base.method.agent, target_entropy=-2.5)
    method = dataclasses.replace(base.method, agent=HybridConfig(sac=sac))
    return dataclasses.replace(base, preset="hybrid_laptop", method=method)


@PRESETS.register("bc")
def bc() -> TrainConfig:
    """Behaviour cloning: 100 demonstrations, 20,000 updates, no step in any world.

    `python train.py --preset bc`. SERL's numbers (reference serl_family.md 1.3, BC) with a
    LayerNorm: franka/pick_cube, seed 0, 99 % of 100 held-out episodes, 0 % without; 6 % of 20
    demonstrations, and 4 % on franka/pick_cube_paced (of demonstrations alone a policy comes to
    rest where the expert decides to close the gripper: `hg_dagger` learns what to do there).
    """
    return TrainConfig(
        preset="bc",
        num_envs=1,
        total_updates=20_000,
        method=OfflineConfig(agent=BCConfig(), demos=DemoConfig(count=100)),
        eval=EvalConfig(every_epochs=8),
    )


@PRESETS.register("bc_serl")
def bc_serl() -> TrainConfig:
    """SERL's behaviour cloning, without LayerNorm, dropout and crops.

    `python train.py --preset bc_serl`; numbers: reference serl_family.md 1.3, BC.
    """
    base = bc()
    method = dataclasses.replace(base.method, agent=BCConfig(layer_norm=False))
    return dataclasses.replace(base, preset="bc_serl", method=method)


@PRESETS.register("bc_hil")
def bc_hil() -> TrainConfig:
    """HIL-SERL's behaviour cloning from two cameras: wider, with dropout and random crops.

    `python train.py --preset bc_hil`; numbers: reference serl_family.md 1.3, BC.
    """
    agent = BCConfig(hidden=(512, 512, 512), dropout=0.25, crop=4)
    base = bc()
    return dataclasses.replace(
        base,
        preset="bc_hil",
        pixels=PixelConfig(cameras=("front", "wrist")),
        method=dataclasses.replace(base.method, agent=agent),
        run=RunConfig(checkpoint_seconds=120.0),
    )


@PRESETS.register("hg_dagger")
def hg_dagger() -> TrainConfig:
    """HG-DAgger: behaviour cloning, then rollouts in which the task's expert takes over.

    `python train.py --preset hg_dagger`. The gate is that of `mjx_serl/training/takeover.py`.
    franka/pick_cube, seed 0: 100 % of 100 held-out episodes after 8,000 env steps and 20
    demonstrations, of which cloning alone reached 6 %.
    """
    return TrainConfig(
        preset="hg_dagger",
        num_envs=16,
        method=HGDAggerConfig(
            loop=LoopConfig(
                updates_per_step=16, warmup_steps=0, pretrain_updates=5000, pool="epoch"
            ),
        ),
    )


@PRESETS.register("vice")
def vice() -> TrainConfig:
    """No reward at all: a classifier learns it from the ends of demonstrations, beside the agent.

    `python train.py --preset vice`: pixels_frozen with VICE, numbers: reference serl_family.md 1.3.
    Nothing ends an episode but its time limit, and what is evaluated is the task's own success.
    Seed 0: 100 of 100 held-out episodes after 8,000 env steps, 2.4 minutes of one core.
    """
    base = pixels_frozen()
    method = dataclasses.replace(base.method, vice=ViceConfig(updates=1))
    return dataclasses.replace(base, preset="vice", method=method)


@PRESETS.register("reset_free")
def reset_free() -> TrainConfig:
    """A forward and a backward policy that undo each other's work: no resets in between.

    `python train.py --preset reset_free`. Both learn as laptop does; only a world whose cube has
    left the bins is put back (`pair/put_back` in metrics.jsonl). On an arm: docs/real_robot.md.
    Seed 0: 98 % of 100 held-out episodes (forward 42 of 42, backward 56 of 58) after 12,000 env
    steps, three minutes of one core; no world was put back.
    """
    base = laptop()
    method = PairConfig(agent=base.method.agent, loop=base.method.loop)
    return dataclasses.replace(
        base,
        preset="reset_free",
        task="franka/bin_relocation",
        method=method,
    )


@PRESETS.register("fast")
def fast() -> TrainConfig:
    """Thousands of worlds on a GPU: large batches, few updates per step.

    `python train.py --preset fast`. Ratios after FastTD3 and FastSAC (reference performance.md
    2c); not measured on a GPU yet.
    """
    return TrainConfig(
        preset="fast",
        num_envs=2048,
        total_env_steps=20_000_000,
        method=OffPolicyConfig(
            agent=SACConfig(tau=0.05, lr=1e-3),
            loop=LoopConfig(
                batch_size=8192,
                updates_per_step=8,
                steps_per_epoch=25,
                warmup_steps=20_480,
                buffer_size=2_000_000,
                normalize_steps=100_000,
            ),
            demos=DemoConfig(count=64),
        ),
        eval=EvalConfig(every_epochs=8, check_episodes=256),
    )


# Of a device's kind, as JAX calls it; any other is an accelerator.
DEFAULTS = {"cpu": "laptop"}


def default_preset() -> str:
    """Name of the preset for the device that JAX computes on: laptop on a CPU, else fast."""
    return DEFAULTS.get(jax.default_backend(), "fast")


def preset(name: str, **changes: object) -> TrainConfig:
    """A preset with some fields changed; raises KeyError with the allowed names."""
    require_fields(TrainConfig, changes, kind="field of a run")
    return dataclasses.replace(PRESETS[name](), **changes)
