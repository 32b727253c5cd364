"""What a task randomises: physics, readings, noise and delays of each world, by its key."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.envs.env import Env, EnvState, vary
from mjx_serl.envs.growth import EPISODES, count_tested, draw_grown, grow, no_growth
from mjx_serl.envs.observation import CONTACTS, RANDOMIZED, Observer
from mjx_serl.envs.randomize import ON_TIME, Delay, Latency, Noise, Randomize
from mjx_serl.envs.vector import vectorize
from scenes.build import build_scene
from scenes.contract.errors import InputError

WORLDS = 3


@pytest.fixture(scope="module")
def randomized(make_native) -> Env:
    return make_native("franka/pick_cube_randomized")


def term(field: str, selector: str, low: float, high: float, **more) -> Randomize:
    return Randomize(field=field, selector=(selector,), range=(low, high), **more)


# One of each field but "table_height", which has a test of its own.
EVERY = (
    term("friction", "gripper", 0.4, 1.5, operation="abs"),
    term("mass", "cube", 0.5, 2.0, distribution="log_uniform"),
    term("inertia", "cube", 0.8, 1.25),
    term("damping", "arm", 0.5, 2.0, shared=False),
    term("armature", "arm", 0.8, 1.2),
    term("frictionloss", "joint1", 0.1, 0.5, operation="add"),
    term("gain", "arm", 0.8, 1.2, distribution="gaussian"),
    term("effort", "gripper", 0.8, 1.2),
    term("size", "cube", 0.9, 1.1),
    term("position", "cube", -0.02, 0.02, operation="add"),
    term("yaw", "cube", -0.5, 0.5, operation="add"),
    term("encoder_bias", "arm", -0.01, 0.01, operation="add", shared=False),
)


@pytest.fixture(scope="module")
def everything(sparse: Env) -> Env:
    """Every field at once, noise on a reading, and all three delays."""
    latency = Latency(
        action=Delay(low=0.0, high=0.25),
        observation=Delay(low=0.1, high=0.2),
        pictures=Delay(low=0.0, high=0.3),
    )
    return vary(sparse, terms=EVERY, noise=(Noise(field="ee_lag", std=0.01),), latency=latency)


@pytest.fixture(scope="module")
def started(everything: Env) -> EnvState:
    return jax.jit(jax.vmap(everything.reset))(jax.random.split(jax.random.key(0), WORLDS))


def model_of(env: Env, state: EnvState, world: int) -> mujoco.MjModel:
    """The model of a world as MuJoCo itself would be given it."""
    model, begin = build_scene(env.scene.spec).model, 0
    assert env.variation is not None
    entries = env.variation.randomization.entries
    assert entries is not None
    for field, index in entries.fields:
        own = np.asarray(state.carry.values)[world, begin : begin + len(index)]
        getattr(model, field).reshape(-1)[list(index)] = own
        begin += len(index)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def test_worlds_are_stepped_as_plain_mujoco_steps_their_models(everything, started):
    """Bit for bit, derived constants included: what was drawn is all that differs."""
    carry, model = started.carry, everything.scene.model
    ctrl = np.asarray(started.sim.qpos[:, everything.scene.arm.qpos_ids])
    ctrl = np.concatenate([ctrl + 0.05, np.full((WORLDS, 1), 0.02)], 1).astype(np.float32)
    step = jax.jit(jax.vmap(lambda c, u: everything.physics.step(c, u, 40)))
    stepped, _ = step(carry, jnp.asarray(ctrl))
    rows = np.ascontiguousarray(stepped.carry).view(np.float64)
    for world in range(WORLDS):
        own = model_of(everything, started, world)
        data, state = mujoco.MjData(own), mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(own, data, np.ascontiguousarray(carry.carry[world]).view(float), state)
        data.ctrl[:] = ctrl[world]
        for _ in range(40):
            mujoco.mj_step(own, data)
        wanted = np.zeros(mujoco.mj_stateSize(own, state))
        mujoco.mj_getState(own, data, wanted, state)
        np.testing.assert_array_equal(rows[world], wanted)
    assert not np.array_equal(rows[0][:10], rows[1][:10])
    assert model.body_mass[everything.scene.object("cube").body_id] == 0.1, "nothing is shared"


def test_draws_lie_in_their_ranges_and_models_stay_physical(everything, started):
    variation, cube = everything.variation, everything.scene.object("cube")
    low, high = variation.ends
    numbers = np.asarray(started.varied.drawn.numbers)
    assert ((numbers >= low - 1e-6) & (numbers <= high + 1e-6)).all()
    assert len(np.unique(numbers, axis=0)) == WORLDS
    shares = np.asarray(variation.shares(started.varied.drawn.numbers))
    assert np.abs(shares).max() <= 1 + 1e-5 and shares.std() > 0.3
    for world in range(WORLDS):
        model = model_of(everything, started, world)
        inertia = model.body_inertia[cube.body_id]
        assert (inertia > 0).all() and inertia.sum() > 2 * inertia.max(), "triangle inequality"
        # kp and kv go together, and the bias with the gain.
        gain, bias = model.actuator_gainprm[0, 0], model.actuator_biasprm[0]
        assert bias[1] == pytest.approx(-gain) and bias[2] / bias[1] == pytest.approx(190 / 4500)
        # The cube lies on the table with its own size.
        bottom = float(started.sim.xpos[world, cube.body_id, 2]) - model.geom_size[cube.geom_id, 2]
        assert abs(bottom) < 1e-4
    wanted = started.sim.qpos[:, cube.qpos_adr + 2]
    np.testing.assert_allclose(started.task_state.start_height, wanted, atol=1e-6)


def without_keys(state: EnvState) -> EnvState:
    return state.replace(varied=state.varied.replace(key=jax.random.key_data(state.varied.key)))


def test_the_same_key_gives_the_same_bits(everything, started):
    again = jax.jit(jax.vmap(everything.reset))(jax.random.split(jax.random.key(0), WORLDS))
    jax.tree.map(np.testing.assert_array_equal, without_keys(again), without_keys(started))


def test_encoders_that_read_too_much_shift_what_the_arm_says_of_itself(sparse: Env):
    """And it goes where it says it is: off by the error that a real one would have."""
    biased = vary(
        sparse,
        terms=[term("encoder_bias", "joint1", 0.02, 0.02, operation="add")],
        latency=ON_TIME,
    )
    key = jax.random.key(3)
    plain, off = jax.jit(sparse.reset)(key), jax.jit(biased.reset)(key)
    ee = np.asarray(plain.obs["ee_position"])
    turned = [ee[0] * np.cos(0.02) - ee[1] * np.sin(0.02), ee[0] * np.sin(0.02) + ee[1]]
    np.testing.assert_allclose(off.obs["ee_position"][:2], turned, atol=2e-4)
    np.testing.assert_array_equal(off.obs["cube_position"], plain.obs["cube_position"])
    step, hold = jax.jit(biased.step), jnp.zeros(4)
    for _ in range(8):
        off = step(off, hold)
    np.testing.assert_allclose(off.obs["ee_position"], off.obs["ee_target"], atol=2e-3)
    site = biased.scene.arm.ee_site_id
    assert 0.008 < float(ee[1] - off.sim.site_xpos[site, 1]) + 0.02 * ee[0] < 0.02


def late(env: Env, **delays: Delay) -> Env:
    return vary(env, terms=(), latency=Latency(**delays))


def test_an_action_is_followed_after_its_delay(sparse: Env):
    """60 ms is past the updates at 0, 25 and 50 ms: the arm stands still until 75 ms."""
    key, action = jax.random.key(0), jnp.array([1.0, 0.0, 0.0, 0.0])
    moved = {}
    for seconds in (0.0, 0.06, 0.1):
        env = late(sparse, action=Delay(low=seconds, high=seconds))
        state = jax.jit(env.step)(jax.jit(env.reset)(key), action)
        moved[seconds] = float(state.sim.site_xpos[env.scene.arm.ee_site_id, 0])
        assert float(state.command.target[0]) > moved[seconds], "the policy knows what it said"
    start = float(jax.jit(sparse.reset)(key).sim.site_xpos[sparse.scene.arm.ee_site_id, 0])
    assert moved[0.0] - start > 3 * (moved[0.06] - start) > 1e-3
    assert abs(moved[0.1] - start) < 1e-4
    none = jax.jit(sparse.step)(jax.jit(sparse.reset)(key), action)
    assert moved[0.0] == float(none.sim.site_xpos[sparse.scene.arm.ee_site_id, 0])


def test_observations_and_poses_of_pictures_are_as_old_as_they_should_be(sparse: Env):
    env = late(sparse, observation=Delay(low=0.2, high=0.2), pictures=Delay(low=0.1, high=0.1))
    state, step = jax.jit(env.reset)(jax.random.key(0)), jax.jit(env.step)
    seen, true, poses = [state.obs["ee_position"]], [], []
    for _ in range(5):
        true.append(state.sim.site_xpos[env.scene.arm.ee_site_id])
        poses.append(state.sim.xpos)
        state = step(state, jnp.array([0.5, 0.2, 0.0, 0.0]))
        seen.append(state.obs["ee_position"])
        np.testing.assert_array_equal(state.varied.truth["ee_target"], state.command.target)
    np.testing.assert_array_equal(np.stack(seen[2:]), np.stack(true[: len(seen) - 2]))
    assert env.variation is not None
    shown = env.variation.lines["pictures"].at(state.varied.poses)
    np.testing.assert_array_equal(shown[0], poses[-1])


def test_a_delay_may_change_within_an_episode(sparse: Env):
    env = late(sparse, action=Delay(low=0.0, high=0.2, period=0.1, hold=0.5))
    state, step = jax.jit(env.reset)(jax.random.key(0)), jax.jit(env.step)
    lags = []
    for _ in range(30):
        state = step(state, jnp.zeros(4))
        lags.append(int(state.varied.commands.lag))
    changes = np.mean(np.diff(lags) != 0)
    assert 0.2 < changes < 0.8 and len(set(lags)) > 4 and max(lags) <= 8


def test_noise_is_on_its_field_alone_and_new_at_every_step(sparse: Env):
    env = vary(sparse, terms=(), noise=(Noise(field="gripper_width", std=0.01),), latency=ON_TIME)
    plain = jax.jit(jax.vmap(sparse.reset))(jax.random.split(jax.random.key(0), 200))
    noisy = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 200))
    gap = {k: np.asarray(noisy.obs[k] - plain.obs[k]) for k in plain.obs}
    assert gap.pop("gripper_width").std() == pytest.approx(0.01, rel=0.15)
    assert not any(x.any() for x in gap.values())
    after = jax.jit(jax.vmap(env.step))(noisy, jnp.zeros((200, 4)))
    again = after.obs["gripper_width"] - after.varied.truth["gripper_width"]
    before = noisy.obs["gripper_width"] - noisy.varied.truth["gripper_width"]
    assert abs(np.corrcoef(np.ravel(again), np.ravel(before))[0, 1]) < 0.2


def test_the_table_takes_up_what_stands_on_it(sparse: Env):
    rise = 0.03
    up = term("table_height", "table", rise, rise, operation="add")
    env = vary(sparse, terms=[up], latency=ON_TIME)
    state, plain = jax.jit(env.reset)(jax.random.key(0)), jax.jit(sparse.reset)(jax.random.key(0))
    for _ in range(3):
        state, plain = (
            jax.jit(e.step)(s, jnp.zeros(4)) for e, s in ((env, state), (sparse, plain))
        )
    gap = state.obs["cube_position"] - plain.obs["cube_position"]
    np.testing.assert_allclose(gap, [0.0, 0.0, rise], atol=1e-4)
    assert float(state.task_state.start_height - plain.task_state.start_height) == pytest.approx(
        rise
    )


def test_the_same_machines_come_back(sparse: Env):
    """ "startup" belongs to the place a world was prepared in, "reset" to its key."""
    terms = [term("mass", "cube", 0.5, 2.0, when="startup"), term("friction", "cube", 0.5, 2.0)]
    vec_env = vectorize(vary(sparse, terms=terms, latency=ON_TIME), num_envs=2, pool_size=8)
    first = jax.jit(vec_env.reset)(jax.random.key(0))
    second = jax.jit(vec_env.refresh)(first)
    pools = [np.asarray(s.pool.varied.drawn.numbers) for s in (first, second)]
    np.testing.assert_array_equal(pools[0][:, 0], pools[1][:, 0])
    assert len(np.unique(pools[0][:, 0])) == 8 and not np.isin(pools[0][:, 1], pools[1][:, 1]).any()


def test_critics_see_the_truth_and_the_draws_and_policies_do_not(everything, started):
    plain, critics = Observer(everything), Observer(everything, critic_obs=True)
    assert critics.obs_spec.policy == plain.obs_spec
    assert critics.contract == plain.contract
    assert plain.contract.latency == (0.0, 0.25) and plain.contract.camera_latency == 0.15
    seen = jax.jit(lambda worlds: critics.observe(worlds, {}))(started)
    assert set(seen) == set(critics.obs_spec.names)
    cube = everything.scene.object("cube").body_id
    np.testing.assert_array_equal(seen["true_cube_position"], started.sim.xpos[:, cube])
    assert np.abs(seen[RANDOMIZED]).max() <= 1 + 1e-5
    assert seen[RANDOMIZED].shape == (WORLDS, *critics.obs_spec[RANDOMIZED].shape)
    assert CONTACTS not in seen, "nothing is felt in this scene"


def test_critics_feel_what_the_pads_press(randomized: Env):
    observer = Observer(randomized, critic_obs=True)
    assert observer.obs_spec[CONTACTS].critic_only
    assert CONTACTS not in Observer(randomized).obs_spec.names
    worlds = jax.vmap(randomized.reset)(jax.random.split(jax.random.key(0), 2))

    def lift(state: EnvState) -> EnvState:
        action = randomized.task.demonstrate(state.sim, state.command, state.task_state)
        return randomized.step(state, action)

    step, seen, lifted = jax.jit(jax.vmap(lift)), [], np.zeros(2, bool)
    while not lifted.all() and len(seen) < 60:
        worlds = step(worlds)
        lifted |= np.asarray(worlds.terminated)
        seen.append(observer.observe(worlds, {})[CONTACTS])
    assert lifted.all() and not np.asarray(seen[0]).any()
    # Both pads press the cube [N].
    assert np.asarray(seen).max(0).min() > 5.0


def test_ranges_grow_where_their_ends_are_mastered(randomized: Env):
    variation = randomized.variation
    assert variation is not None
    growth = no_growth(variation)
    keys, slots = jax.random.split(jax.random.key(0), 400), jnp.arange(400)
    draw = jax.jit(jax.vmap(lambda g, k, s: draw_grown(variation, g, k, s), (None, 0, 0)))
    neutral = draw(growth, keys, slots)
    np.testing.assert_allclose(neutral.numbers, [[1.0, 1.0, 0.0]] * 400, atol=1e-6)
    assert np.mean(neutral.tested >= 0) == pytest.approx(0.5, abs=0.1)
    # The high end of the mass is failed, the low one of the friction is in between.
    solved = jnp.where(neutral.tested == 3, False, (neutral.tested != 0) | (slots % 2 == 0))
    for step in range(5):
        counted = count_tested(growth, neutral.tested, jnp.ones(400, bool), solved)
        assert (np.asarray(counted.tested) >= EPISODES).all()
        growth = grow(counted, 0.1)
        wanted = 0.1 * (step + 1) * np.array([[0, 1], [1, 0], [1, 1]])
        np.testing.assert_allclose(growth.reach, wanted, atol=1e-6)
    assert not np.asarray(growth.tested).any(), "they are counted anew"
    few = count_tested(growth, neutral.tested[:9], jnp.ones(9, bool), solved[:9])
    np.testing.assert_array_equal(grow(few, 0.1).reach, growth.reach)
    numbers = np.asarray(draw(growth, keys, slots).numbers)
    # Half the reach, where what is drawn is the logarithm.
    assert numbers[:, 0].min() == pytest.approx(1.0)
    assert numbers[:, 0].max() == pytest.approx(1.5**0.5)
    assert numbers[:, 1].min() == pytest.approx(0.5**0.5) and numbers[:, 1].max() <= 1 + 1e-6


def test_nothing_to_grow_is_refused(sparse: Env):
    with pytest.raises(InputError, match="grow 0.1 where 'franka/pick_cube' randomises nothing"):
        vectorize(sparse, num_envs=1, grow=0.1)


def test_growth_is_part_of_the_worlds_state(randomized: Env):
    vec_env = vectorize(randomized, num_envs=4, pool_size=4, grow=0.5)
    state = jax.jit(vec_env.reset)(jax.random.key(1))
    ended = dataclasses.replace(state.envs, t=jnp.full(4, 1000))
    tested = int(jnp.sum(state.envs.varied.drawn.tested >= 0))
    state, _ = jax.jit(vec_env.step)(state.replace(envs=ended), jnp.zeros((4, 4)))
    assert int(state.growth.tested.sum()) == tested > 0


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda: term("colour", "cube", 0, 1), "Unknown randomised field 'colour'. .*friction"),
        (lambda: term("size", "cube", -0.1, 0.1, operation="add"), "allowed: scale"),
        (lambda: term("mass", "cube", 2.0, 0.5), "the lower first"),
        (lambda: term("mass", "cube", 0.5, 2.0, when="interval"), "Unknown when.*startup"),
        (lambda: term("mass", "cube", 0.5, 2.0, distribution="cauchy"), "Allowed: gaussian"),
        (lambda: Randomize(field="mass", selector="cube", range=(1, 2)), "a tuple of names"),
        (lambda: Delay(low=0.2, high=0.1), "at most high 0.1 s"),
        (lambda: Delay(high=0.1, hold=1.5), "hold 1.5, allowed: 0 to 1|hold 1.5, allowed"),
    ],
    ids=["field", "operation", "range", "when", "distribution", "selector", "delay", "hold"],
)
def test_terms_that_cannot_be_are_refused_in_one_line(made, wanted: str):
    with pytest.raises((InputError, KeyError), match=wanted) as error:
        made()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (
            {"terms": [term("mass", "cube", -0.2, 0.1, operation="add")]},
            "mass would be -0.1 kg, allowed: above 0 kg",
        ),
        (
            {
                "terms": [
                    term("size", "cube", 0.5, 1.0),
                    term("mass", "cube", -0.05, 0.0, operation="add"),
                ]
            },
            "changes the same, allowed: two that both scale it",
        ),
        ({"terms": [term("mass", "ball", 0.5, 2.0)]}, "Unknown selected body 'ball'.*cube"),
        ({"latency": Latency(action=Delay(high=10.0))}, "allowed: less than the episode's 10 s"),
        ({"latency": Latency(pictures=Delay(high=0.03))}, "whole control steps of 0.1 s"),
        ({"noise": [Noise(field="colour", std=1.0)]}, "Unknown observation with noise 'colour'"),
    ],
    ids=["negative mass", "negative after another", "selector", "delay", "part of a step", "noise"],
)
def test_what_does_not_fit_a_task_is_refused_in_one_line(sparse: Env, more, wanted: str):
    with pytest.raises((InputError, KeyError), match=wanted) as error:
        vary(sparse, **{"terms": (), "latency": ON_TIME} | more)
    assert "\n" not in str(error.value)
