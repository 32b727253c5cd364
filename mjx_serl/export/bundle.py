"""The policy bundle of a run: all that a robot needs of it, checked before it appears.

    manifest.json        what the policy takes for granted and how it was measured
    params.safetensors   every array that the policy reads: actor, encoder, normaliser
    policy.onnx          observation -> actions, parameters included; what the bridge runs
    policy.stablehlo     (params, observation) -> actions, by jax.export, for cpu and cuda
    golden.npz           observations of held-out episodes and the training process's actions
    explore.onnx         (observation, noise) -> actions as in training; of one that still learns
    reward.onnx          pictures -> success, less the threshold; of one whose classifier says so
    SHA256SUMS           over all of the above

The policy is the deterministic one in float32, normaliser and frozen encoder included. Its inputs
are those of the contract, each [1, *shape] in the field's dtype (pictures uint8, RGB); its
output is "actions", float32 [1, horizon, A].
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, cast

import jax
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.data.normalize import STD_FLOOR, NormalizerState
from mjx_serl.envs.observation import Observer, encoded
from mjx_serl.export.golden import check_against_golden, golden_samples, npz
from mjx_serl.nets.classifier import RewardClassifier, SuccessNet, probabilities
from mjx_serl.nets.frozen import FrozenEncoder
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.loop import Output, Run
from mjx_serl.run.summary import Summary
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import Trainer
from mjx_serl.types import Choice, Obs
from scenes.contract import manifest as names
from scenes.contract.errors import InputError, MissingPackageError
from scenes.contract.extras import is_installed
from scenes.contract.files import new_folder
from scenes.contract.manifest import Manifest, Measured, Statistics, write_manifest, write_sums
from scenes.contract.serialize import digest
from scenes.contract.weights import write_safetensors

PLATFORMS = ("cpu", "cuda")  # of policy.stablehlo

_NEEDED = ("flatbuffers", "onnx", "onnxruntime")

Params: TypeAlias = Mapping[str, Any]
Act: TypeAlias = Callable[[dict[str, Any], Obs], Float[Array, "N H A"]]


class RunBundle(Output):
    """Writes `<run>/bundle` at the end of a run and says so; no bundle is worth the run.

    That of an earlier end, where the run has gone on since, is kept as `bundle-1` and so on.
    """

    def after_run(self, run: Run, state: TrainState, summary: Summary) -> None:
        """Export the policy where `RunConfig.bundle` asks for it."""
        if not run.cfg.run.bundle:
            return
        out = run.folder.bundle
        # Everything is caught: the run is finished and on disk.
        try:
            params = run.trainer.policy_params(state)
            outdated = os.path.lexists(out) and run.progress.epoch > run.start_epoch
            fresh = out.with_name(f"{out.name}-new") if outdated else out
            manifest = write_bundle(run, params, fresh, summary=summary)
            if outdated:
                out.rename(_free_name(out))
                fresh.rename(out)
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warn_line(f"no policy bundle was written ({reason})")
        else:
            print(f"bundle {out}  {sum(manifest.sizes.values()) / 1e6:.1f} MB")


def write_bundle(
    run: Run,
    params: PolicyParams,
    out: Path,
    *,
    summary: Summary | None,
    explores: bool = False,
) -> Manifest:
    """Export the policy of a state to the folder `out`, which appears whole or not at all.

    Args:
        run: whose observer and agent.
        params: of the policy, from `Trainer.policy_params`.
        out: must not exist.
        summary: of the run; None leaves the measured success open.
        explores: it is still learning: the policy that acts in training is exported too.

    Raises:
        FileExistsError: `out` is there; a bundle is never overwritten.
        ModuleNotFoundError: a package that exporting needs is not installed.
        ValueError: parameters are not finite, or the exported policy is not the trained one.
        NotImplementedError: the policy holds a primitive that `onnx_graph` does not know.
    """
    _require_absent(out)
    require_packages()
    trainer, contract = run.trainer.exact(), run.observer.contract
    files = policy_files(trainer, run.observer, params, seed=run.cfg.seed, explores=explores)
    manifest = Manifest(
        task=run.cfg.task,
        agent=run.cfg.agent_name,
        contract=contract,
        contract_digest=digest(contract),
        rate=contract.action.rate,
        horizon=trainer.horizon,
        trained_in=run.trainer.compute_dtype,
        normalizer={
            name: found
            for name, found in statistics(params.normalizer).items()
            if name.rpartition("/")[2] in run.observer.obs_spec.policy.names
        },
        measured=_measured(summary),
        commit=None if summary is None else summary.commit,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sizes={name: len(data) for name, data in files.items()},
    )
    files[names.MANIFEST] = write_manifest(manifest)
    files[names.SUMS] = write_sums(files)
    publish(out, files)
    return manifest


def require_packages() -> None:
    """Raise ModuleNotFoundError, with what to do, unless the packages of exporting are there."""
    missing = [name for name in _NEEDED if not is_installed(name)]
    if missing:
        raise MissingPackageError(
            f"policy bundles need {', '.join(missing)}. Hint: pip install mjx-serl, then "
            "python -m mjx_serl.export RUN"
        )


def policy_files(
    trainer: Trainer,
    observer: Observer,
    policy: PolicyParams,
    *,
    seed: int,
    explores: bool = False,
) -> dict[str, bytes]:
    """The files of a bundle that hold the policy, by name; errors as in `write_bundle`.

    Args:
        trainer: whose `choose` computes in float32, from `Trainer.exact`.
        observer: of the run.
        policy: what the policy reads.
        seed: picks the golden episodes.
        explores: with the policy that acts in training.
    """
    from mjx_serl.export.onnx_graph import initializers, to_onnx  # needs onnx

    act, learned = flat_policy(trainer, observer, policy)
    fields = observer.contract.inputs.fields
    inputs = {f.name: jax.ShapeDtypeStruct((1, *f.shape), f.dtype) for f in fields}
    model = to_onnx(act, learned, inputs, output=names.ACTIONS_OUTPUT)
    params = {name: learned[name] for name in initializers(model) if name in learned}
    more: dict[str, bytes] = {}
    if explores:
        act_noisily, _ = flat_explorer(trainer, observer, policy)
        noise = jax.ShapeDtypeStruct((1, trainer.horizon, observer.env.action_dim), np.float32)
        noisy = inputs | {names.NOISE_INPUT: noise}
        explorer = to_onnx(act_noisily, learned, noisy, output=names.ACTIONS_OUTPUT)
        params |= {name: learned[name] for name in initializers(explorer) if name in learned}
        more = reward_file(observer)
        more[names.EXPLORE] = explorer.SerializeToString(deterministic=True)
    _check_params(params)
    golden = golden_samples(trainer, observer, policy, seed=seed)
    files = {
        names.PARAMS: write_safetensors(params),
        names.ONNX: model.SerializeToString(deterministic=True),
        names.STABLEHLO: _stablehlo(act, params, inputs),
        names.GOLDEN: npz(golden),
    }
    check_against_golden(files[names.ONNX], golden)
    return files | more


def reward_file(observer: Observer) -> dict[str, bytes]:
    """The classifier of success that judges, if one does."""
    from mjx_serl.export.onnx_graph import to_onnx  # needs onnx

    classifier = None if observer.judge is None else observer.judge.classifier
    if not isinstance(classifier, RewardClassifier):
        return {}
    net, spec = SuccessNet(classifier.spec), classifier.spec
    paths, structure = jax.tree_util.tree_flatten_with_path(jax.device_get(classifier.params))
    weights = {_name((None, *path)): np.asarray(x) for path, x in paths}

    def margin(params: dict[str, Any], pictures: Obs) -> Float[Array, " 1"]:
        whole = jax.tree.unflatten(structure, [params[name] for name in weights])
        logits = cast(Array, net.apply(whole, pictures))
        return probabilities(spec, logits)[:, -1] - classifier.thresholds[-1]

    inputs = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in net.blank().items()}
    model = to_onnx(margin, weights, inputs, output=names.MARGIN_OUTPUT)
    return {names.REWARD: model.SerializeToString(deterministic=True)}


# -- the policy as a function ----------------------------------------------------------------------


def flat_policy(
    trainer: Trainer, observer: Observer, policy: PolicyParams
) -> tuple[Act, dict[str, np.ndarray]]:
    """The deterministic policy as a function of arrays by name, and these arrays.

    It maps (arrays, observation [N, ...] as the contract names it) to actions [N, H, A]. Arrays
    that it does not read, such as the critics', may be left out of its argument.
    """
    key = jax.random.key(0)  # a deterministic policy draws nothing

    def choose(params: PolicyParams, obs: Obs) -> Choice:
        return trainer.choose(params, obs, key, deterministic=True)

    return _flat(choose, observer, policy)


def flat_explorer(
    trainer: Trainer, observer: Observer, policy: PolicyParams
) -> tuple[Act, dict[str, np.ndarray]]:
    """As `flat_policy` the policy that acts in training; "noise" [N, H, A] is in its observation.

    Raises InputError where the trainer's agent does not explore by such noise.
    """
    explore = getattr(trainer, "explore", None)
    if explore is None:
        raise InputError(f"{type(trainer).__name__} has no policy that explores elsewhere")

    def choose(params: PolicyParams, obs: Obs) -> Choice:
        rest = {name: x for name, x in obs.items() if name != names.NOISE_INPUT}
        return explore(params, rest, obs[names.NOISE_INPUT])

    return _flat(choose, observer, policy)


def _flat(
    choose: Callable[[PolicyParams, Obs], Choice], observer: Observer, policy: PolicyParams
) -> tuple[Act, dict[str, np.ndarray]]:
    encoder = _frozen(observer)
    frozen = {} if encoder is None else {"encoder": encoder.params}
    paths, structure = jax.tree_util.tree_flatten_with_path(jax.device_get((policy, frozen)))
    arrays = {_name(path): np.asarray(x) for path, x in paths}

    def act(params: dict[str, Any], obs: Obs) -> Float[Array, "N H A"]:
        leaves = [params.get(name, np.zeros_like(x)) for name, x in arrays.items()]
        policy_params, own = jax.tree.unflatten(structure, leaves)
        if encoder is not None:
            applied = dataclasses.replace(encoder, params=own["encoder"])
            obs = encoded(applied, applied.spec.cameras, obs, observer.stack)
        return choose(policy_params, obs).action

    return act, arrays


def parameters_by_name(policy: PolicyParams) -> dict[str, np.ndarray]:
    """The arrays of a policy by the names that they have in its bundle, without a frozen encoder's.

    Copies on the host: the state that they are of may be trained on meanwhile.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(jax.device_get((policy,)))
    return {_name(path): np.array(x) for path, x in paths}


def _name(path: Any) -> str:
    # The first part says whether it is the policy's or its encoder's.
    return jax.tree_util.keystr(path[1:], simple=True, separator="/")


def _frozen(observer: Observer) -> FrozenEncoder | None:
    encoder = None if observer.cameras is None else observer.cameras.encoder
    if encoder is not None and not isinstance(encoder, FrozenEncoder):
        raise InputError(
            f"A bundle's encoder must be a FrozenEncoder, got {type(encoder).__name__}"
        )
    return encoder


def _check_params(params: Params) -> None:
    for name, x in params.items():
        if x.dtype != np.float32 or not np.isfinite(x).all():
            what = x.dtype if x.dtype != np.float32 else "values that are not finite"
            raise InputError(f"Parameter '{name}' has {what}, allowed: finite float32")


def _stablehlo(act: Act, params: Params, inputs: Mapping[str, jax.ShapeDtypeStruct]) -> bytes:
    from jax import export

    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in params.items()}
    with _no_source_paths():
        program = export.export(jax.jit(act), platforms=PLATFORMS)(shapes, dict(inputs))
    return bytes(program.serialize())


@contextmanager
def _no_source_paths() -> Iterator[None]:
    """A program says which lines it was traced from; where they lie here is nobody's business."""
    # A traceback of no lines; without "full" ones the line itself would be named.
    wanted = {
        "jax_traceback_in_locations_limit": 0,
        "jax_include_full_tracebacks_in_locations": True,
    }
    before = {option: getattr(jax.config, option) for option in wanted}
    try:
        for option, value in wanted.items():
            jax.config.update(option, value)
        yield
    finally:
        for option, value in before.items():
            jax.config.update(option, value)


# -- golden samples --------------------------------------------------------------------------------


# -- what else the manifest says, and the disk -----------------------------------------------------


def statistics(
    state: NormalizerState | Mapping[str, NormalizerState],
) -> dict[str, Statistics]:
    """Mean and standard deviation as `data.normalize.normalize` applies them.

    Those of a task's parts are named PART/OBSERVATION.
    """
    if isinstance(state, Mapping):
        return {
            f"{part}/{name}": own
            for part, normalizer in state.items()
            for name, own in statistics(normalizer).items()
        }
    found = {}
    for name, mean in jax.device_get(state.mean).items():
        variance = np.asarray(state.m2[name]) / max(float(state.count), 1.0)
        std = np.maximum(np.sqrt(variance) if float(state.count) > 0 else 1.0, STD_FLOOR)
        std = np.broadcast_to(std, mean.shape)
        found[name] = Statistics(mean=_floats(mean), std=_floats(std))
    return found


def _floats(x: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.ravel(x))


def _measured(summary: Summary | None) -> Measured | None:
    if summary is None or summary.success_rate is None or summary.success_ci95 is None:
        return None
    return Measured(
        success_rate=summary.success_rate, ci95=summary.success_ci95, episodes=summary.episodes
    )


def publish(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a folder that appears by one rename; FileExistsError where it is there."""
    _require_absent(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as part:
        for name, data in files.items():
            (part / name).write_bytes(data)


def _free_name(out: Path) -> Path:
    numbered = (out.with_name(f"{out.name}-{number}") for number in itertools.count(1))
    return next(path for path in numbered if not os.path.lexists(path))


def _require_absent(out: Path) -> None:
    if os.path.lexists(out):
        raise FileExistsError(
            f"{out} exists; a bundle is never overwritten. Hint: give another folder, or move it"
        )
