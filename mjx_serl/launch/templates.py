"""What a cluster's own scheduler is told: a script for Slurm, a JobSet for Kubernetes.

They start the processes and start them again; each of them joins with `--join`.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from scenes.contract.errors import InputError

PORT = 8476  # JAX's own
_MOUNT = Path("/runs")  # of the volume in a pod
_SLURM = """\
#!/bin/bash
# Options on sbatch's own command line go before these: sbatch -N 8 -p PARTITION --gpus-per-node 8
# Submitted again, or requeued, it goes on from the last checkpoint.
#SBATCH --job-name={name}
#SBATCH --nodes={count}
#SBATCH --ntasks-per-node=1
#SBATCH --chdir={here}
#SBATCH --output={logs}.%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
export MJX_SERL_COORDINATOR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):{port}"
export MJX_SERL_RANKS="$SLURM_NNODES"
for attempt in $(seq {attempts}); do
  # One that fails ends the others; status 75 is a run that was saved and not finished.
  srun --kill-on-bad-exit=1 bash -c 'MJX_SERL_RANK=$SLURM_PROCID exec "$@"' rank {command} && exit 0
  sleep $((2 ** (attempt < 6 ? attempt : 6)))
done
exit 1
"""


def slurm_script(
    run: Path, words: Sequence[str], *, count: int, attempts: int, port: int = PORT
) -> str:
    """Return a script for sbatch.

    Args:
        run: the run's folder.
        words: of train.py.
        count: of nodes, with one process each; sbatch's own `-N` changes it.
        attempts: at most.
        port: that rank 0 listens at.
    """
    return _SLURM.format(
        name=shlex.quote(run.name),
        count=count,
        here=shlex.quote(str(Path.cwd())),
        logs=shlex.quote(str(run.absolute()).replace("%", "%%")),
        port=port,
        attempts=attempts,
        command=shlex.join(_join(words)),
    )


def job_set(
    run: Path,
    words: Sequence[str],
    *,
    count: int,
    attempts: int,
    image: str,
    gpus: int,
    port: int = PORT,
) -> str:
    """Return a JobSet (jobset.x-k8s.io/v1alpha2) as JSON, which is YAML too.

    All pods start again where one fails, as often as `attempts` less one. A volume claim named
    "runs" holds the run's folder. Raises InputError for a run to resume at a relative path.
    """
    mount = run.parent
    if not mount.is_absolute():
        if any(word.startswith("--resume") for word in words):
            raise InputError(f"--resume {run} in pods, allowed: its path there, from the root")
        mount, words = _MOUNT, [*words, f"--run.folder={_MOUNT}"]
    name = run.name.lower().replace("_", "-").replace(".", "-")
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    env = [
        {"name": "MJX_SERL_COORDINATOR", "value": f"{name}-rank-0-0.{name}:{port}"},
        {"name": "MJX_SERL_RANKS", "value": str(count)},
        {"name": "MJX_SERL_RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}},
    ]
    container = {
        "name": "train",
        "image": image,
        "command": ["python", *_join(words)[1:]],
        "env": env,
        "ports": [{"containerPort": port}],
        "volumeMounts": [{"name": "runs", "mountPath": str(mount)}],
        **({"resources": {"limits": {"nvidia.com/gpu": gpus}}} if gpus else {}),
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,  # in which a run that is taken away saves
        "containers": [container],
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}],
    }
    job = {
        "parallelism": count,
        "completions": count,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": pod},
    }
    text = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": {"maxRestarts": max(0, attempts - 1)},
            "replicatedJobs": [{"name": "rank", "replicas": 1, "template": {"spec": job}}],
        },
    }
    return json.dumps(text, indent=2) + "\n"


def _join(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "mjx_serl.launch", "--join", *words]
