"""Arrays written over those of an ONNX file, read again by onnx itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_bridge.policy.onnx_weights import weight_places, with_weights
from scenes.contract.errors import InputError

onnx = pytest.importorskip("onnx")


def model(arrays: dict[str, np.ndarray]) -> bytes:
    helper, kept = onnx.helper, [onnx.numpy_helper.from_array(x, n) for n, x in arrays.items()]
    nodes = [helper.make_node("Identity", ["x"], ["y"], doc_string="x" * 300)]
    ends = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    return helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], kept)
    ).SerializeToString()


def arrays_of(data: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_from_string(data).graph
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}


OWN = {
    "a/w": np.arange(300, dtype=np.float32).reshape(20, 15),
    "b": np.float32([1.5]),
    "n": np.int64([2, -1]),
}


def test_other_numbers_stand_where_the_old_ones_did() -> None:
    data = model(OWN)
    new = {"a/w": OWN["a/w"] * -2, "n": np.int64([7, 8]), "unused": np.zeros(3)}
    changed = arrays_of(with_weights(data, weight_places(data), new))
    for name, want in (OWN | {"a/w": new["a/w"], "n": new["n"]}).items():
        np.testing.assert_array_equal(changed[name], want)
    onnx.checker.check_model(with_weights(data, weight_places(data), new))


def test_another_size_is_refused() -> None:
    data = model(OWN)
    with pytest.raises(InputError, match="'b' has 8 bytes, allowed: 4"):
        with_weights(data, weight_places(data), {"b": np.zeros(2, np.float32)})


@given(st.integers(0, len(model(OWN)) - 1), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read_within_its_bounds(at: int, value: int) -> None:
    data = bytearray(model(OWN))
    data[at] = value
    try:
        places = weight_places(bytes(data))
    except InputError:
        return
    assert all(0 <= place.start <= place.stop <= len(data) for place in places.values())
