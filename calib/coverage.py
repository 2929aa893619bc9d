"""Few pictures that stand for many: near-duplicates are left out, then the most different come first."""

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.look import Thumbnails

NEAR_DESCRIPTORS = 0.9
"""Two pictures above this similarity may be near-duplicates.

Measured with whitened R-MAC of ResNet-50 and SqueezeNet: 465 different photographs of groceries reach 0.86 and 0.79
between two of the same product, 113 views of a walk 0.87 and 0.92; the same picture as JPEG of quality 75 stays above
0.98, at three quarters of its size above 0.92, as JPEG of quality 40 above 0.87.
"""

NEAR_PIXELS = 0.95
"""And they are, if their thumbnails correlate above this as well.

A model without whitening finds any two photographs similar, so its word alone would leave nothing; thumbnails alone
would drop the frame in which a bottle appears. Different photographs of groceries reach 0.93, recoded ones stay above
0.99, and one whose brightness was changed by a fifth above 0.98.
"""

SAME_PIXELS = 0.98
"""Where there is no model, the thumbnails must correlate above this."""


def near(pixels_n: NDArray[np.float32], similarity_n: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
    """Which of N pictures are near-duplicates of another one.

    Args:
        pixels_n: Correlations of the thumbnails with that picture's.
        similarity_n: Similarities of the descriptors; None where there is no model.
    """
    if similarity_n is None:
        return pixels_n > SAME_PIXELS
    return (pixels_n > NEAR_PIXELS) & (similarity_n > NEAR_DESCRIPTORS)


def distinct_rows(descriptors_nd: Descriptors, thumbnails_np: Thumbnails) -> list[int]:
    """Rows of which no two are near-duplicates, in order; of those that are, the first stays."""
    stays_n = np.ones(len(descriptors_nd), dtype=np.bool_)
    for row in range(len(descriptors_nd)):
        if stays_n[row]:
            later = slice(row + 1, None)
            stays_n[later] &= ~near(
                thumbnails_np[later] @ thumbnails_np[row], descriptors_nd[later] @ descriptors_nd[row]
            )
    return [int(row) for row in np.flatnonzero(stays_n)]


def k_centre(descriptors_nd: Descriptors, count: int) -> list[int]:
    """At most `count` rows, chosen one after the other, each the least similar to those before it.

    The first is the one most similar to the mean. However many are taken from the front, every row has one of them
    within twice the distance that the best choice of as many would reach (greedy k-centre, T. Gonzalez 1985).

    Args:
        descriptors_nd: Rows of length 1.
        count: 0 gives none.
    """
    if count < 1 or not len(descriptors_nd):
        return []
    chosen = [int(np.argmax(descriptors_nd @ descriptors_nd.mean(axis=0)))]
    nearest_n = descriptors_nd @ descriptors_nd[chosen[0]]
    nearest_n[chosen[0]] = np.inf
    while len(chosen) < min(count, len(descriptors_nd)):
        row = int(np.argmin(nearest_n))
        chosen.append(row)
        nearest_n = np.maximum(nearest_n, descriptors_nd @ descriptors_nd[row])
        nearest_n[row] = np.inf
    return chosen
