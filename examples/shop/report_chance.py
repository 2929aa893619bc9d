"""Chance: how far a difference of mAP could lie from what was measured, had other products been drawn."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from report_pictures import label_of

DRAWS = 2000
COVERED = 0.95


def difference_interval(rankings: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the range of mAP differences over 95 of 100 bootstrap draws of whole products.

    Photographs of one product are not independent, so they are drawn together; both models see the same draws.
    """
    by_query = {ranking["query"]: ranking["average_precision"] for ranking in others}
    by_product: dict[str, list[float]] = defaultdict(list)
    for ranking in rankings:
        by_product[label_of(ranking["query"])].append(ranking["average_precision"] - by_query[ranking["query"]])
    sums = np.array([sum(differences) for differences in by_product.values()])
    counts = np.array([len(differences) for differences in by_product.values()])
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)
