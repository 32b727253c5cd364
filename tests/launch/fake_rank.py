"""Stands in for train.py as one of several processes: "epochs" are files, nothing is learned.

FAKE_RANK in the environment is JSON: `crash` [rank, attempt] kills that one in its second epoch,
`refuse` is a rank that does not like its options, `slow` trains until it is told to stop.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

said: dict[str, str] = {}
for word in sys.argv[1:]:
    name, _, value = word.removeprefix("--").partition("=")
    said[name] = value
fake = json.loads(os.environ.get("FAKE_RANK", "{}"))
rank, count = int(os.environ["MJX_SERL_RANK"]), int(os.environ["MJX_SERL_RANKS"])
resumed = "resume" in said
path = Path(said["resume"]) if resumed else Path(said.get("run.folder", "runs")) / said["run.name"]
told = path / "stop"
signal.signal(signal.SIGTERM, lambda *_: told.touch())
sys.stdout.write(f"rank {rank} of {count} at {os.environ['MJX_SERL_COORDINATOR']}\n")
sys.stdout.flush()
if fake.get("refuse") == rank:
    sys.stderr.write("error: agent.lr -1, allowed: above 0\n")
    sys.exit(2)
if rank == 0 and not resumed:
    path.parent.mkdir(exist_ok=True)
    path.mkdir()
    (path / "checkpoints").mkdir()
    (path / "attempts").write_text("")
    (path / "config.json").write_text("{}")
while not (path / "config.json").exists():
    time.sleep(0.01)
if rank == 0:
    told.unlink(missing_ok=True)
with (path / "attempts").open("a") as file:
    file.write(f"{rank}\n")
attempt = (path / "attempts").read_text().split().count(str(rank))
# They meet before the first epoch: from there on all heed signals.
while min((path / "attempts").read_text().split().count(str(k)) for k in range(count)) < attempt:
    time.sleep(0.01)
saved = [int(step.name) for step in (path / "checkpoints").glob("*")]
crash = fake.get("crash", [None, None])
lost = crash in ([rank, attempt], [rank, 0])
waits = crash[1] in (attempt, 0)  # as in a collective, for the one that is lost
for epoch in range(max(saved, default=0) + 1, 1000 if fake.get("slow") else 4):
    if rank == 0 and not (lost and epoch > 2):
        (path / "checkpoints" / str(epoch)).mkdir(exist_ok=True)
    if lost and epoch >= 2:
        while not (path / "checkpoints" / "2").exists():
            time.sleep(0.01)
        sys.stdout.write("RuntimeError: a device is lost\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60 if waits and epoch >= 2 else 0.05)
    if told.exists():
        sys.exit(0)
if rank == 0:
    row = {"kind": "final", "epoch": 3, "success_rate": 1.0}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
