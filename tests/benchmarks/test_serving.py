"""How long clients wait: rounds in turn, ratios to the first, and the smallest sizes for real."""

import pytest

from benchmarks import serving
from benchmarks.results import Recorder
from benchmarks.serving import ServingConfig, Waited


def test_figures_are_medians_over_rounds_and_ratios_to_the_first():
    order: list[str] = []

    def ask(name: str, *seconds: float):
        answers = iter(seconds)

        def asked() -> Waited:
            order.append(name)
            return Waited([next(answers)] * 10, {"clients": 2})

        return asked

    recorder = Recorder("serving")
    asked = {"one": ask("one", 0.01, 0.02, 0.09), "all": ask("all", 0.03, 0.02, 0.045)}
    serving._compare(ServingConfig(rounds=3), recorder, asked)
    assert order == ["one", "all"] * 3
    one, every = recorder.results
    assert (one.value, every.value) == (pytest.approx(20.0), pytest.approx(30.0))
    assert one.ratio is None and every.ratio.to == "one"
    ratio = (every.ratio.value, every.ratio.low, every.ratio.high)
    assert ratio == (pytest.approx(1.0), pytest.approx(0.5), pytest.approx(3.0))
    assert every.params["highest_p99_ms"] == pytest.approx(45.0) and every.params["clients"] == 2


@pytest.mark.slow
def test_openpis_clients_are_answered():
    recorder = Recorder("serving")
    serving.run(ServingConfig(clients=3, requests=2, image_size=32, rounds=1), recorder)
    if any("reason" in row.params for row in recorder.results):
        pytest.skip(recorder.results[0].params["reason"])
    batched = recorder.results[-1]
    assert batched.name.endswith("in batches") and batched.params["largest_batch"] == 3
    assert len(recorder.results) == 6
