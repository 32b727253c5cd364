"""Train the laptop preset for a quarter of its time: `learn_to_pick.py FOLDER`.

Prints one JSON line with the success rate before and after. Random numbers are drawn as the suite
draws them, which leaves them as they are.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from mjx_serl.platform import prepare_platform

if __name__ == "__main__":
    prepare_platform(cache_dir=Path(__file__).parents[2] / ".cache" / "jax")
    from mjx_serl.config import RunConfig
    from mjx_serl.experiments import preset
    from mjx_serl.run.folder import RunFolder
    from mjx_serl.run.loop import Run

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from short_programs import random_by_call

    root = Path(sys.argv[1])
    cfg = preset("laptop", total_env_steps=2000)
    cfg = dataclasses.replace(
        cfg,
        eval=dataclasses.replace(cfg.eval, every_epochs=100, check_episodes=60, episodes=60),
        run=RunConfig(folder=root, checkpoint_seconds=1e6, tensorboard=False, bundle=False),
    )
    run = Run(cfg, RunFolder.create(root, task=cfg.task, agent="a", seed=0, name="learns"))
    rates: list[float] = []
    prepare = run._prepare

    def prepared(*args: Any, **more: Any) -> Any:
        """Evaluate what training starts from."""
        state, programs = prepare(*args, **more)
        rates.append(float(run._evaluate(programs.final, state, 3).success.mean()))
        return state, programs

    run._prepare = prepared
    with random_by_call():
        summary = run.train()
    assert summary is not None
    sys.stdout.write(json.dumps({"before": rates[0], "after": summary.success_rate}) + "\n")
