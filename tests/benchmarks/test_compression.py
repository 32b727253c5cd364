"""What is packed comes back as it was, and the table says by how much it shrank."""

import numpy as np
import pytest

from benchmarks.compression import Codec, CompressionConfig, codecs, differences, measure, restored

RANDOM = np.random.default_rng(0).integers(0, 256, (4, 2, 16, 16, 3), np.uint8)


def test_differences_lose_nothing():
    np.testing.assert_array_equal(restored(differences(RANDOM)), RANDOM)


@pytest.mark.parametrize("differ", [False, True])
def test_still_pictures_shrink_and_noise_does_not(differ: bool):
    still = np.broadcast_to(RANDOM[:1], (8, *RANDOM.shape[1:])).copy()
    for codec in codecs():
        ratio = float(measure(CompressionConfig(), codec, RANDOM, differ=differ).split(" | ")[0])
        assert ratio == pytest.approx(1.0, abs=0.02)
    by_differences = float(measure(CompressionConfig(), codecs()[0], still, differ=True).split()[0])
    assert by_differences > 6.0


def test_a_codec_that_loses_something_is_no_result():
    lossy = Codec("lossy", lambda data: bytes(len(data)), lambda data: data)
    with pytest.raises(RuntimeError, match="lossy loses something"):
        measure(CompressionConfig(), lossy, RANDOM, differ=False)
