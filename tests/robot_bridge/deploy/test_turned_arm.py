"""Turning actions through the whole bridge: gate, governor and simulated arm."""

from expert_arm import expert_arm

EPISODES = 10


def test_bars_are_picked_under_the_governor() -> None:
    deployment, _ = expert_arm("franka/pick_turned_bar_paced", episodes=EPISODES)
    reports = deployment.run()
    assert sum(report.success for report in reports) >= EPISODES - 1
