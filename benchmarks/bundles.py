"""Does every method's bundle do on an arm what its run did in the simulator?

    python -m benchmarks.bundles --methods qc_rlpd residual_rlpd

Each method is trained on franka/pick_cube_paced, as a cell of `benchmarks.methods`; then its bundle
moves the simulated arm under the bridge's governor, from the starts that the simulator's evaluation
has too. Each row is filed once it is there, so that a stopped run goes on where it was; `--again`
measures anew what is on the arm.
"""

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import methods
from benchmarks.bridge import solved_by
from benchmarks.methods import DEPLOYED, PACED, MethodsConfig, cell_name, run_folder
from benchmarks.results import Recorder
from benchmarks.resumable import go_on, is_wanted, resumed
from robot_bridge.policy.bundle import find_bundle, load_bundle
from scenes.contract.ranges import MOST_EPISODES, MOST_SEED, ranged

QUESTION = "bundles"
GOAL = 3  # episodes of 100 by which an arm may do worse, issue 12


@dataclass(frozen=True, kw_only=True)
class BundlesConfig:
    """Which methods, how many episodes.

    Attributes:
        methods: names of methods; all that make bundles from state by default.
        seed: of the training run.
        episodes: on the simulated arm.
        minutes: of two cores for one run, compiling included [min].
        again: measure once more what is filed already.
        folder: where the runs are kept.
    """

    methods: tuple[str, ...] = field(default_factory=lambda: tuple(DEPLOYED))
    seed: int = ranged(0, least=0, most=MOST_SEED)
    episodes: int = ranged(100, least=1, most=MOST_EPISODES)
    minutes: float = ranged(10.0, above=0)
    again: bool = False
    folder: Path = Path("runs/methods")


def run(cfg: BundlesConfig, recorder: Recorder) -> None:
    """Train what is not there, deploy it, file both counts."""
    cells = MethodsConfig(
        only=(PACED,),
        methods=cfg.methods,
        seeds=(cfg.seed,),
        minutes=cfg.minutes,
        folder=cfg.folder,
    )
    methods.run(cells, resumed(methods.QUESTION))
    for method in cfg.methods:
        name = cell_name(PACED, method, cfg.seed)
        if is_wanted(recorder, name, again=cfg.again):
            _deploy(cfg, run_folder(cells, PACED, method, cfg.seed), name, method, recorder)


def _deploy(cfg: BundlesConfig, folder: Path, name: str, method: str, recorder: Recorder) -> None:
    params = {"method": method, "episodes": cfg.episodes, "allowed_episodes": GOAL}
    if not (folder / "summary.json").exists():
        recorder.missing(name, f"no finished run in {folder}", params)
        return
    own, solved = solved_by(folder, load_bundle(find_bundle(folder)), episodes=cfg.episodes)
    recorder.add(name, float(solved), "episodes", params | {"simulator": own})


if __name__ == "__main__":
    go_on(BundlesConfig, __doc__, QUESTION, run)
