"""Stands in for train.py: reads the options that say where a run is kept, leaves what a run leaves.

FAKE_TRAIN in the environment is JSON: seeds that `fail`, and seeds that are `slow`, which wait for
a signal and end, and are finished once they are resumed; `deaf` ones do not hear it. Of seeds
together all are left as they are by itself, and it fails where one does. A learning rate is added
to what it reaches.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

said: dict[str, str] = {}
for word in sys.argv[1:]:
    name, _, value = word.removeprefix("--").partition("=")
    said[name] = value
fake = json.loads(os.environ.get("FAKE_TRAIN", "{}"))
resumed = "resume" in said
if "together" in said:
    group = Path(said["resume"])
    kept = [f"--run.folder={group}", "--run.name=seed-"]
    for seed in json.loads((group / "seeds.json").read_text())["seeds"]:
        words = [f"--seed={seed}", kept[0], f"{kept[1]}{seed}"]
        if subprocess.run([sys.executable, "-S", __file__, *words]).returncode:
            sys.exit(f"error: seed {seed} failed")
    sys.exit(0)
path = Path(said["resume"]) if resumed else Path(said["run.folder"]) / said["run.name"]
if resumed:
    said = json.loads((path / "config.json").read_text())
seed = int(said["seed"])
if seed in fake.get("fail", []):
    sys.exit("warming up\nerror: no luck\na remark")
path.mkdir(exist_ok=True)
(path / "config.json").write_text(json.dumps({**said, "words": sys.argv[1:]}))
if seed in fake.get("slow", []) and not resumed:
    held = signal.SIG_IGN if seed in fake.get("deaf", []) else lambda *_: sys.exit(0)
    signal.signal(signal.SIGINT, held)
    (path / "waiting").touch()
    time.sleep(60)
cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
told = {"cpus": cpus, "device": os.environ.get("CUDA_VISIBLE_DEVICES")}
sys.stdout.write(f"{json.dumps(told)}\n")
rate = 0.1 * seed + float(said.get("agent.lr", 0.0))
rates = (rate, rate + 0.6)
rows = [
    {
        "kind": kind,
        "epoch": number,
        "env_steps": 1000 * number,
        "grad_steps": 10 * number,
        "elapsed_s": 30.0 * number,
        "success_rate": rate,
        "success_ci95": [0.0, 1.0],
        "episodes": 100,
    }
    for number, (kind, rate) in enumerate(zip(("eval", "final"), rates, strict=True), start=1)
]
(path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
