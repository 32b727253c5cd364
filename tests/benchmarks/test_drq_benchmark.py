"""The benchmark of DrQ at sizes that only show that it runs."""

import pytest

from benchmarks import drq
from benchmarks.results import Recorder
from benchmarks.workers import encoder
from mjx_serl.nets import convolution


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_updates_and_passes_are_measured(monkeypatch: pytest.MonkeyPatch):
    # A worker replaces it, as is right in a process of its own; here it comes back.
    monkeypatch.setattr(convolution, "convolve", convolution.convolve)
    for size, small in {"ROWS": 16, "WORLDS": 2, "REPEATS": 2}.items():
        monkeypatch.setattr(encoder, size, small)
    recorder = Recorder("drq")
    cfg = drq.DrqConfig(
        encoders=("small",),
        compute_dtypes=("float32",),
        batches=(4,),
        size=32,
        repeats=1,
        seconds=0.02,
    )
    drq.run(cfg, recorder)
    found = {r.name: r.value for r in recorder.results}
    assert set(found) == {
        "small: pass of 4, float32, chosen convolution",
        "small: pass of 4, float32, library convolution",
        "small: update of 4, float32",
    }
    assert all(value and value > 0 for value in found.values())
