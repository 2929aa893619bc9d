"""Which labelled pictures a step of metric learning sees, and the loss over them: at random, or mined anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepir.descriptors import Descriptors
from deepir.distill import hard_negatives
from deepir.distill.loss_choice import Miner
from deepir.distill.losses import contrastive_loss, triplet_logexp_loss, triplet_loss
from deepir.distill.mining import HardTripletConfig, HardTriplets
from deepir.distill.sights import Batch
from deepir.distill.stepper import Loss
from deepir.errors import InputError
from deepir.optional import need

Describe = Callable[[Sequence[int]], Descriptors]
"""Descriptors of pictures by their numbers, from the network as it is."""

TUPLE_LOSSES = {
    "triplet": 0.1,
    "triplet-caffe": 1.0,
    "triplet-logexp": 0.1,
    "contrastive": 0.7,
    "contrastive-squared": 1.0,
}
"""Losses of a query, a positive and its negatives, with the margin of each."""

_ANY_MARGIN = 8.0
"""Above what two descriptors of length 1 can be apart, twice, squared: with it every triplet has a loss."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What `trainer.train` asks for: the batches of an epoch, and the loss."""

    batches: Callable[[int], list[Batch]]
    loss: Loss


def random_lesson(labels_n: Tensor, batch: int, per_label: int, loss: nn.Module, miner: Miner | None) -> Lesson:
    """Batches of some labels, `per_label` pictures of each; the loss over all pairs in a batch, or those of a miner.

    Args:
        labels_n: The label of every picture, numbers from 0.
        batch: Pictures of a batch; fewer where there are not so many labels, because each is there once.
        per_label: Pictures of a label in a batch.
        loss: (descriptors, labels) to a scalar; with a miner also what it chose.
        miner: Chooses pairs, or None.
    """
    labels = labels_n.tolist()
    batch = min(batch, per_label * len(set(labels)))
    length = max(len(labels) // batch, 1) * batch

    def batches(_: int) -> list[Batch]:
        # made anew, because the sampler keeps an order of its own that a resumed training would not have
        sampler = need("pytorch_metric_learning.samplers").MPerClassSampler(labels, per_label, batch, length)
        numbers = [int(number) for number in sampler]
        return [Batch(tuple(numbers[start : start + batch])) for start in range(0, length, batch)]

    def judge(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
        labels_b = labels_n[numbers_n].to(descriptors_nd.device)
        value: Tensor = (
            loss(descriptors_nd, labels_b)
            if miner is None
            else loss(descriptors_nd, labels_b, miner(descriptors_nd, labels_b))
        )
        return value

    return Lesson(batches, judge)


def triplet_lesson(labels_n: Tensor, config: HardTripletConfig, loss: str, seed: int, describe: Describe) -> Lesson:
    """Hard triplets; an epoch is what lies between two refreshes of the candidates (method.md 6).

    Once every triplet keeps the margin, those come that keep it least.
    """
    config = replace(config, margin=TUPLE_LOSSES[loss])

    def batches(epoch: int) -> list[Batch]:
        triplets = HardTriplets(config, labels_n, seed + epoch)
        descriptors_cd = describe(triplets.candidates().tolist())
        if not triplets.refresh(descriptors_cd):
            triplets = HardTriplets(replace(config, margin=_ANY_MARGIN), labels_n, seed + epoch)
            triplets.refresh(descriptors_cd)
        return [_flat(triplets.next()) for _ in range(config.refresh)]

    return Lesson(batches, tuple_loss(loss, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class TupleConfig:
    """How queries get their hard negatives; the published values are 2000, 20000, 5, 5 (method.md 5).

    Attributes:
        queries: Drawn for each epoch.
        pool: Pictures that negatives are mined from, drawn for each epoch.
        negatives: Of each query, of different labels.
        tuples: Queries of one batch.
    """

    queries: int = 2000
    pool: int = 20000
    negatives: int = 5
    tuples: int = 5


def tuple_lesson(labels_n: Tensor, config: TupleConfig, loss: str, seed: int, describe: Describe) -> Lesson:
    """Queries with a positive each and the hardest negatives of a pool, mined anew in each epoch (method.md 5)."""
    labels = labels_n.numpy()

    def batches(epoch: int) -> list[Batch]:
        random = np.random.default_rng([seed, epoch])
        queries = random.permutation(len(labels))[: config.queries]
        pool = np.sort(random.permutation(len(labels))[: config.pool])
        known, row_of = np.unique(np.concatenate([queries, pool]), return_inverse=True)
        descriptors_nd = describe(known.tolist())[row_of]
        parts = descriptors_nd[: len(queries)], descriptors_nd[len(queries) :]
        mined = pool[hard_negatives.mine(*parts, labels[pool], labels[queries], config.negatives)]
        positives = np.array([_other(query, labels, random) for query in queries])
        tuples = np.concatenate([queries[:, None], positives[:, None], mined], axis=1)
        return [_flat(tuples[start : start + config.tuples]) for start in range(0, len(tuples), config.tuples)]

    return Lesson(batches, tuple_loss(loss, 2 + config.negatives))


def tuple_loss(name: str, width: int) -> Loss:
    """A loss of descriptors (T * width, D), of which each `width` are a query, its positive and its negatives.

    Args:
        name: One of TUPLE_LOSSES.
        width: 3 or more.
    """
    margin = TUPLE_LOSSES[name]

    def loss(descriptors_nd: Tensor, _: Tensor) -> Tensor:
        rows_twd = descriptors_nd.view(-1, width, descriptors_nd.shape[1])
        if name.startswith("contrastive"):
            same_tw = torch.zeros(rows_twd.shape[:2], device=descriptors_nd.device)[:, 1:]
            same_tw[:, 0] = 1
            queries, others = rows_twd[:, :1].expand_as(rows_twd)[:, 1:], rows_twd[:, 1:]
            squared = name.endswith("squared")
            return contrastive_loss(
                queries.flatten(0, 1), others.flatten(0, 1), same_tw.flatten(), margin, squared=squared
            )
        queries, positives = (rows_twd[:, at : at + 1].expand_as(rows_twd)[:, 2:].flatten(0, 1) for at in (0, 1))
        negatives = rows_twd[:, 2:].flatten(0, 1)
        if name == "triplet-logexp":
            return triplet_logexp_loss(queries, positives, negatives)
        return triplet_loss(queries, positives, negatives, margin, "caffe" if name == "triplet-caffe" else "dir")

    return loss


def _flat(tuples: NDArray[np.int64]) -> Batch:
    return Batch(tuple(tuples.ravel().tolist()))


def _other(query: int, labels: NDArray[np.int64], random: np.random.Generator) -> int:
    """Another picture of the query's label."""
    others = np.flatnonzero(labels == labels[query])
    others = others[others != query]
    if not len(others):
        message = f"picture {query} has no second one of its label to be found"
        raise InputError(message)
    return int(random.choice(others))
