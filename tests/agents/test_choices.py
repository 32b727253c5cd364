"""Grippers as choices: numbering, rounding, which entries they are, when a command changes.

Defects are those of reference serl_family.md section 7.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from specs_of import action_spec_of

from mjx_serl.agents.choices import changes, choices_of
from mjx_serl.tasks.handover import OBS
from scenes.contract.specs import ActionSpec

SINGLE = action_spec_of(3, names=("x", "gripper", "y"))
# HIL-SERL's dual arm: 14 entries, steps, turns and gripper of each.
ENTRIES = ("x", "y", "z", "rx", "ry", "rz", "gripper")
DUAL = ActionSpec(
    mode="ee_delta",
    names=tuple(f"{role}/{name}" for role in ("left", "right") for name in ENTRIES),
    scale=(0.01,) * 14,
    rate=10.0,
)


def test_defect_14_a_command_is_rounded_and_not_cut_off() -> None:
    """hil-serl pull request 23: 0.9 closes; its fork's int() left it where it was."""
    action = np.array([-1.0, -0.9, -0.4, 0.0, 0.4, 0.9, 1.0], np.float32)
    number = choices_of(SINGLE).number(jnp.stack([action * 0, action, action * 0], axis=-1))
    np.testing.assert_array_equal(number, [0, 0, 1, 1, 1, 2, 2])


def test_defect_14_a_penalty_is_for_what_changes_with_the_grippers_own_sign() -> None:
    """1 closes and -1 opens here, so that commands of +-1 can change something."""
    command = jnp.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    told = jnp.array([1.0, 0.0, -1.0, 1.0, 0.0, -1.0])
    np.testing.assert_array_equal(changes([command], [told]), [1, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(
        changes([command, command], [told, told[::-1]]), [1, 0, 1, 1, 0, 1]
    )


def test_defect_18_grippers_are_found_by_name_in_both_arms() -> None:
    """Entries 6 and 13 of 14, as the ancestor's step has them and its reset has not."""
    assert choices_of(DUAL).chosen == (6, 13)
    assert choices_of(DUAL).continuous.dim == 12
    observed = [name for name in OBS.names if name.endswith("gripper_command")]
    assert observed == ["left/gripper_command", "right/gripper_command"]


def test_two_grippers_are_one_choice_among_nine() -> None:
    """3 k_0 + k_1 (`sac_hybrid_dual.py`)."""
    choices = choices_of(DUAL)
    assert choices.values.shape == (9, 2)
    first, second = np.divmod(np.arange(9), 3)
    np.testing.assert_array_equal(choices.values, np.stack([first, second], axis=-1) - 1.0)
    action = np.zeros((9, 14), np.float32)
    action[:, [6, 13]] = choices.values
    np.testing.assert_array_equal(choices.number(jnp.asarray(action)), np.arange(9))


@pytest.mark.parametrize("counts", [(0, 2, 0), (0, 3, 0), (4, 0, 5), (2, 3, 0)])
def test_an_action_is_its_parts(counts: tuple[int, ...]) -> None:
    choices = choices_of(action_spec_of(3, choices=counts))
    number = np.arange(len(choices.values))
    moved = np.random.default_rng(0).uniform(-1, 1, (len(number), 3 - len(choices.chosen)))
    action = choices.joined(jnp.asarray(moved, jnp.float32), jnp.asarray(number))
    assert action.shape == (len(number), 3) and np.abs(action).max() <= 1.0
    np.testing.assert_array_equal(choices.number(action), number)
    np.testing.assert_allclose(choices.split(action), moved, rtol=1e-6)


def test_an_action_without_a_gripper_is_refused_by_name() -> None:
    for spec in (action_spec_of(2), action_spec_of(1, names=("gripper",))):
        with pytest.raises(ValueError, match=f"entries {', '.join(spec.names)}, allowed: some"):
            choices_of(spec)
