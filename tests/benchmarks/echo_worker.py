"""A worker for the tests: counts, fails or hangs as told."""

import itertools
import sys
import time

from benchmarks.worker import Job, Params, serve


def start(params: Params) -> Job:
    """Behave as `params` says."""
    sys.stdout.write("noise\n")
    if params.get("fail") == "start":
        raise RuntimeError("no such engine")
    counter = itertools.count(1)

    def measure() -> float:
        value = next(counter)
        if params.get("fail") == "measure" and value == 2:
            raise ValueError("broke down")
        if params.get("hang"):
            time.sleep(60)
        return value * params.get("factor", 1.0)

    return Job(measure, {"fact": 1})


if __name__ == "__main__":
    serve(start)
