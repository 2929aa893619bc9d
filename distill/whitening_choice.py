"""Choose the whitening's dimension and power on pictures that it was not fitted on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, similarities
from deepir.distill.checkpoint import Model
from deepir.distill.region_bank import RegionBank, collect_regions
from deepir.distill.whitening import (
    MOST_PICTURES,
    Groups,
    Report,
    drop_projections,
    equal_weights,
    name_pictures,
    spread,
    warn_of_few,
)
from deepir.distill.whitening_labels import Labels, paired_groups
from deepir.errors import InputError, OptionError
from deepir.image import Image, read_image
from deepir.score import average_precision
from deepir.whitening import PrincipalComponents, principal_components

DIMS = (64, 128, 256, 512, 1024)
POWERS = (0.125, 0.25, 0.375, 0.5)

_FEWEST_LABELS = 4
_FEWEST_PICTURES = 4
_VIEW_SHARE = (0.25, 0.6)
_VIEW_LIGHT = (0.6, 1.4)
_VIEW_COLOUR = (0.9, 1.1)

Mask = NDArray[np.bool_]
Candidate = tuple[int, float]
"""Dimension and power."""
Scores = dict[Candidate, NDArray[np.float64]]
"""For each candidate its average precision on each label, or on each picture where there are none."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """Pictures, and what a whitening is judged by.

    Attributes:
        paths: N pictures.
        group_n: The number of each picture's group.
        label_n: What each shows; the empty string where it is not judged.
        across: Search only the other groups.
        words: What is judged, for people.
    """

    paths: list[Path]
    group_n: NDArray[np.intp]
    label_n: NDArray[np.str_]
    across: bool
    words: str

    @property
    def by_views(self) -> bool:
        """Whether pictures are searched with views of themselves, for want of labels."""
        return not (self.label_n != "").any()

    @property
    def groups(self) -> list[list[Path]]:
        """The pictures of each group."""
        return [
            [path for path, of in zip(self.paths, self.group_n, strict=True) if of == group]
            for group in np.unique(self.group_n)
        ]

    def halves(self) -> tuple[Mask, Mask]:
        """Two halves of the pictures; the pictures of a label are in one of them."""
        labels = sorted(set(self.label_n) - {""})
        half_of = {label: number % 2 == 0 for number, label in enumerate(labels)}
        first = np.array([half_of.get(label, row % 2 == 0) for row, label in enumerate(self.label_n)])
        return first, ~first

    def relevance(self, judged_n: Mask) -> tuple[Mask, Mask]:
        """For every two judged pictures whether the first is searched for the second, and whether it should find it."""
        label, group = self.label_n[judged_n], self.group_n[judged_n]
        if self.by_views:
            return np.ones((len(group), len(group)), dtype=bool), np.eye(len(group), dtype=bool)
        name = np.array([str(path) for path in self.paths])[judged_n]
        searched = name[:, None] != name
        if self.across:
            searched &= group[:, None] != group
        return searched, searched & (label[:, None] == label) & (label != "")


def whiten_auto(
    model: Model, groups: Groups, labels: Labels, *, standardise: bool = False, report: Report = lambda _: None
) -> Model:
    """Whiten with the dimension of DIMS and the power of POWERS that serve best on pictures not fitted on.

    The pictures are split in halves; each candidate is fitted on each half and judged on the other.  With labels by
    the mean average precision over them, each picture searched among the others, and where groups share labels among
    the other groups only.  Without, by how well a cropped and re-lit view of a picture finds it.  Of the candidates
    within a standard error of the best, the smallest dimension is taken, with its best power, and fitted on all
    pictures: held-out pictures resemble those fitted on more than a shop's next ones will, which flatters large
    dimensions.

    Args:
        model: Without middle layers; its own whitening is replaced.
        groups: As in `whiten`; at most MOST_PICTURES of each are taken.
        labels: What the pictures show; may be empty.
        standardise: As in `fit_whitening`.
        report: Takes lines for people: what is judged, and how every candidate scored.

    Raises:
        OptionError: A model that fuses middle layers.
        InputError: Too few pictures to split.
    """
    if model.spec.head.fusion != "none":
        message = (
            f"the whitening is chosen for models without middle layers, and this one has the fusion "
            f"{model.spec.head.fusion}: give --dim and --power"
        )
        raise OptionError(message)
    trial = _plan(groups, labels)
    model.network.eval()
    drop_projections(model, report)
    report(f"judged by {trial.words}")
    if len(groups) > 1 and not trial.across:
        report(
            "warning: too few labels lie in two folders, so that nothing here judges how photographs find references: "
            "the chosen power may be too small for that"
        )
    regions = collect_regions(model, map(read_image, trial.paths))
    views = collect_regions(model, _altered(trial.paths)) if trial.by_views else regions
    scores = _rate(trial, regions, views, standardise=standardise)
    dim, power = choose(scores)
    for line in _table(scores):
        report(line)
    report(f"chosen: dim {dim}, power {power:g}, the smallest dimension within a standard error of the best score")
    warn_of_few(len(regions.vectors_vc), dim, report)
    components = _components(trial, regions, np.ones(len(trial.paths), dtype=bool), standardise=standardise)
    model.network.whiten_with(components.whitening(dim, power))
    words = f"pca dim {dim} power {power:g}{' standardised' * standardise} on {len(regions.vectors_vc)} regions"
    chosen = f"chosen from {len(scores)} by {trial.words}: {scores[dim, power].mean():.3f}"
    return model.sealed(whitening=f"{words} of {name_pictures(trial.groups)}; {chosen}")


def choose(scores: Scores) -> Candidate:
    """The smallest dimension that scores within a standard error of the best, with its best power.

    The error is that of the best candidate's mean over labels: what differs by less may differ the other way round on
    other labels, and a smaller descriptor is searched faster.
    """
    best = max(scores.values(), key=np.mean)
    bound = best.mean() - best.std(ddof=1) / np.sqrt(len(best))
    good = [candidate for candidate, values in scores.items() if values.mean() >= bound]
    smallest = min(dim for dim, _ in good)
    return max((each for each in good if each[0] == smallest), key=lambda candidate: scores[candidate].mean())


def _plan(groups: Groups, labels: Labels) -> _Trial:
    """Which pictures are judged, and by what."""
    paired = paired_groups(groups, labels)
    seen = [{labels[path] for path in paths} for paths in paired]
    shared = {label for label in set().union(*seen) if sum(label in each for each in seen) > 1}
    across = len(shared) >= _FEWEST_LABELS
    judged = shared if across else set().union(*seen)
    if len(judged) < _FEWEST_LABELS:
        judged, taken = set(), [spread(paths, MOST_PICTURES) for paths in groups]
        words = "finding each picture from a cropped and re-lit view of itself (no labels; they would judge better)"
    else:
        taken = [_with_others(pair, paths, labels) for pair, paths in zip(paired, groups, strict=True)]
        words = f"mAP over {len(judged)} labels{' from folder to folder' * across}"
    paths = [path for group in taken for path in group]
    if len(paths) < _FEWEST_PICTURES:
        message = f"{len(paths)} pictures are too few to choose a whitening: give more, or --dim and --power"
        raise InputError(message)
    group_n = np.repeat(np.arange(len(taken)), [len(group) for group in taken])
    label_n = np.array([label if (label := labels.get(path, "")) in judged else "" for path in paths])
    return _Trial(paths, group_n, label_n, across, words)


def _with_others(paired: Sequence[Path], paths: Sequence[Path], labels: Labels) -> list[Path]:
    """The pictures of pairs, and of those that have no label or one of their own as many as there is room for."""
    room = MOST_PICTURES - len(paired)
    in_pairs = {labels[path] for path in paired}
    others = [path for path in paths if labels.get(path) not in in_pairs]
    return [*paired, *(spread(others, room) if room > 0 else ())]


def _components(trial: _Trial, regions: RegionBank, fitted_n: Mask, *, standardise: bool) -> PrincipalComponents:
    """The principal components of some pictures' vectors, every group with the same weight."""
    fitted = regions.only(fitted_n)
    weights_v = equal_weights(trial.group_n[fitted_n][fitted.picture_v])
    return principal_components(fitted.vectors_vc, weights_n=weights_v, standardise=standardise)


def _rate(trial: _Trial, regions: RegionBank, views: RegionBank, *, standardise: bool) -> Scores:
    """Fit every candidate on each half and judge it on the other."""
    halves = trial.halves()
    fits = [_components(trial, regions, ~judged_n, standardise=standardise) for judged_n in halves]
    most = min(components.most for components in fits)
    dims = [dim for dim in DIMS if dim <= most] or [most]
    found: dict[Candidate, list[float]] = {(dim, power): [] for dim in dims for power in POWERS}
    for components, judged_n in zip(fits, halves, strict=True):
        banks = [bank.only(judged_n) for bank in ((regions, views) if trial.by_views else (regions,))]
        for power in POWERS:
            whitened = [bank.whiten(components.whitening(dims[-1], power)) for bank in banks]
            for dim in dims:
                sides = [bank.describe(vectors[:, :dim]) for bank, vectors in zip(banks, whitened, strict=True)]
                found[dim, power] += _precisions(trial, judged_n, similarities(sides[-1], sides[0]))
    return {candidate: np.array(precisions) for candidate, precisions in found.items()}


def _precisions(trial: _Trial, judged_n: Mask, similarity_qn: Descriptors) -> list[float]:
    """For each label, or picture searched with its view, the mean over groups of the mean average precision."""
    of_label: dict[str, dict[int, list[float]]] = {}
    rows = np.flatnonzero(judged_n)
    for row, similarity_n, searched, sought in zip(rows, similarity_qn, *trial.relevance(judged_n), strict=True):
        if sought.any():
            order = np.argsort(-similarity_n[searched], kind="stable")
            precision = average_precision(sought[searched][order], int(sought.sum()))
            label = trial.label_n[row] or str(row)
            of_label.setdefault(label, {}).setdefault(trial.group_n[row], []).append(precision)
    return [float(np.mean([np.mean(precisions) for precisions in of_group.values()])) for of_group in of_label.values()]


def _table(scores: Scores) -> Iterator[str]:
    """The mean scores x 100, a line for each dimension."""
    yield "  dim" + "".join(f"  power {power:<5g}" for power in POWERS)
    for dim in sorted({dim for dim, _ in scores}):
        yield f"{dim:5}" + "".join(f"  {100 * scores[dim, power].mean():11.1f}" for power in POWERS)


def _altered(paths: Sequence[Path]) -> Iterator[Image]:
    """Of each picture a crop in other light, the same every time."""
    for number, path in enumerate(paths):
        rng, image = np.random.default_rng(number), read_image(path)
        side = np.sqrt(rng.uniform(*_VIEW_SHARE))
        height, width = (max(1, round(length * side)) for length in image.shape[:2])
        top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        light = rng.uniform(*_VIEW_LIGHT) * rng.uniform(*_VIEW_COLOUR, 3)
        yield np.clip(image[top : top + height, left : left + width] * light, 0, 255).astype(np.uint8)
