"""benchmarks.contacts: depths are MuJoCo's, and what blows up is counted."""

import dataclasses

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from benchmarks import contacts
from benchmarks.results import Recorder
from mjx_serl.envs.env import Env


@pytest.mark.parametrize("depth", [0.003, -0.05])
def test_the_depth_is_that_of_the_cube_in_the_table(sparse: Env, depth: float):
    model, cube = sparse.scene.model, sparse.scene.objects["cube"]
    qpos = model.key_qpos[0].copy()
    qpos[cube.qpos_adr + 2] = 0.02 - depth  # its half size
    found = contacts.deepest(model, mujoco.MjData(model), qpos)
    assert found == pytest.approx(max(depth, 0.0), abs=1e-9)
    assert contacts.deepest(model, mujoco.MjData(model), np.full_like(qpos, np.nan)) == 0.0


def test_worlds_are_looked_at_and_those_that_blow_up_counted(sparse: Env):
    """The second of two looks is at an episode whose third step is not finite."""

    @dataclasses.dataclass(frozen=True, eq=False)
    class Breaks:
        task: object

        def __getattr__(self, name: str):
            return getattr(self.task, name)

        def observe(self, sim, command, task_state):
            obs = self.task.observe(sim, command, task_state)
            late = sim.time > 2.5 * sparse.ctrl_dt
            return obs | {"ee_lag": jnp.where(late, jnp.nan, obs["ee_lag"])}

    healthy = contacts.play(sparse, worlds=2, steps=4, every=2, seed=0)
    assert healthy.blown_up == 0 and healthy.depths.shape == (2, 2)
    assert (healthy.depths > 0).all()  # the cube lies on the table
    broken = dataclasses.replace(sparse, task=Breaks(sparse.task))
    assert contacts.play(broken, worlds=2, steps=4, every=2, seed=0).blown_up == 2


def test_both_rows_are_of_one_run(monkeypatch: pytest.MonkeyPatch):
    def played(env: Env, **sizes: int) -> contacts.Health:
        # Half of the looks find nothing that touches.
        depths = np.append(np.zeros(100), np.linspace(2e-5, 0.002, 100))
        return contacts.Health(blown_up=3, depths=depths[None])

    monkeypatch.setattr(contacts, "play", played)
    recorder = Recorder("contacts")
    cfg = contacts.ContactsConfig(only=("franka/pick_cube",), worlds=2)
    contacts.run(cfg, recorder)
    contacts.run(cfg, recorder)
    assert [(r.name.split(": ")[1], r.value) for r in recorder.results] == [
        ("worlds that blow up", 3.0),
        ("penetration, 99th percentile", pytest.approx(1.9802)),
    ]
    assert recorder.results[1].params["touching"] == 0.5
    assert recorder.results[1].params["worst_mm"] == pytest.approx(2.0)
