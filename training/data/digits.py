"""The embedded default: 1,797 real handwritten digits, 8x8, that come with scikit-learn.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test
part). Each pixel counts the ink of a 4x4 block of the scan, 0..16.
"""

import numpy as np

from training.data.dataset import Images


def load() -> Images:
    """All 1,797 digits, uint8 [N, 8, 8, 1], ink white (255) on black."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(np.asarray(bunch.images) * (255 / 16)).astype(np.uint8)
    return Images(pixels[:, :, :, None], np.asarray(bunch.target, dtype=np.int64))
