"""Export the policy of a run on disk: see `mjx_serl.export`, its command line."""

from pathlib import Path

from mjx_serl.export.bundle import require_packages, write_bundle
from mjx_serl.run.evaluation import load_policy


def export(path: Path, out: Path | None, *, noise: bool = False) -> Path:
    """Write the bundle of a run's latest good checkpoint; returns its folder.

    Args:
        path: the run folder.
        out: None is `bundle` in the run folder.
        noise: also what the policy does from other noise, by which others may steer it.

    Raises:
        FileExistsError: there is one; bundles are never overwritten.
        ModuleNotFoundError: a package that exporting needs is not installed.
    """
    require_packages()
    run, params = load_policy(path)
    out = run.folder.bundle if out is None else out
    summary = run.folder.read_summary()
    manifest = write_bundle(run, params, out, summary=summary, explores=noise)
    measured = manifest.measured
    said = "not measured" if measured is None else f"success {measured.success_rate:.0%}"
    print(f"{out}: {manifest.task}, {said}, {sum(manifest.sizes.values()) / 1e6:.1f} MB")
    return out
