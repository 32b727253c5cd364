"""Our safetensors writer and the library's reader, and the other way round."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from scenes.contract.weights import read_safetensors, write_safetensors

FLOATS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    elements=st.floats(-1e6, 1e6, width=32),
)
NAMES = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


@given(st.dictionaries(NAMES, FLOATS, max_size=5))
def test_the_library_reads_what_we_write_and_we_what_it_writes(
    tensors: dict[str, np.ndarray],
) -> None:
    ours = write_safetensors(tensors)
    for found in (load(ours), read_safetensors(ours), read_safetensors(save(tensors))):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found[name], tensor)
            assert found[name].shape == tensor.shape


def test_other_types_are_not_written() -> None:
    with pytest.raises(ValueError, match="tensor 'w' is float64, allowed: float32"):
        write_safetensors({"w": np.zeros(3)})
