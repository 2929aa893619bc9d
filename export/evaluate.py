"""Score a model, or descriptors on disk, on a dataset, and write the descriptors where asked."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepir.datasets import RetrievalSet, read_retrieval_sets
from deepir.errors import InputError, OptionError
from deepir.export.descriptor_files import Descriptor, ViewName, name_of
from deepir.export.descriptor_targets import Form, Target, open_target
from deepir.export.eval_distractors import open_distractor_set
from deepir.export.eval_scores import ScoringRules, score_set
from deepir.export.eval_stamp import Stamp
from deepir.export.subject import (
    Progress,
    Subject,
    View,
    describe_views,
    open_at_scales,
    open_subject,
    silent,
    subject_of_model,
)
from deepir.image import list_images, read_image

__all__ = ["EvalOptions", "ScoringRules", "Subject", "evaluate", "open_at_scales", "open_subject", "subject_of_model"]

PICTURES = "pictures"
"""The layout of a folder without ground truth: nothing to score, but descriptors to export."""

_TIMED_RUNS = 15
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """What to evaluate, how, and what to write; checked when it is made.

    Attributes:
        layout: Of the dataset: one of `deepir.datasets.LAYOUTS`, or `pictures`, which needs `form`.
        rules: How rankings are made and scored.
        form: What to export the descriptors as; None for nothing.
        out: Where to; given exactly when `form` is.
        threads: That decode pictures; None for one for each core, at most 8.
        progress: Is told how far the describing is.
    """

    layout: str = "auto"
    rules: ScoringRules = field(default_factory=ScoringRules)
    form: Form | None = None
    out: Path | None = None
    threads: int | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        if (self.form is None) != (self.out is None):
            message = "--export and -o belong together, as in --export npz -o descriptors.npz"
            raise OptionError(message)
        if self.layout == PICTURES and self.form is None:
            message = "the layout pictures has nothing to score: say what to write with --export and -o"
            raise OptionError(message)


@dataclass(frozen=True, slots=True)
class _Described:
    """Descriptors by view, how many of them were computed now, and how long that took."""

    descriptors: Mapping[View, Descriptor]
    computed: int
    seconds: float


def evaluate(
    subject: Subject, source: Path, names: Sequence[str] = (), options: EvalOptions | None = None
) -> dict[str, Any]:
    """Score a subject on the sets of a dataset; the result is what `deepir-eval --json` prints.

    Pictures that the subject's file, or an earlier export of the same model, holds are not described again.

    Args:
        subject: From `open_subject`, `open_at_scales` or `subject_of_model`.
        source: The dataset.
        names: Of the sets to score; all when empty.
        options: The defaults of EvalOptions when None.

    Raises:
        OptionError: A set that the dataset does not have, or an expansion by more pictures than it has.
        InputError: No dataset, a picture that cannot be read, descriptors that are missing or another model's.
    """
    options = EvalOptions() if options is None else options
    rules = options.rules
    sets = [] if options.layout == PICTURES else _choose_sets(source, names, options)
    distractors = None
    if rules.distractors is not None and sets:
        distractors = open_distractor_set(
            rules.distractors, subject, threads=options.threads, progress=options.progress
        )
    stamp = {**subject.stamp(), "scoring": rules.facts(sets, distractors) if sets else None}
    views = _views(sets, rules) if sets else [View(image) for image in list_images(source)]
    with _target(options, stamp, subject) as target:
        described = _describe_all(subject, views, source, target, options)
    return {
        **_facts(subject, source, stamp),
        "described": described.computed,
        "images_per_second": round(described.computed / described.seconds, 1) if described.computed else None,
        "milliseconds_per_image": _milliseconds_per_image(subject, views[0]),
        "average_precision": rules.convention,
        "sets": {one.name: score_set(one, described.descriptors, rules, distractors) for one in sets},
    }


def _choose_sets(source: Path, names: Sequence[str], options: EvalOptions) -> list[RetrievalSet]:
    sets = read_retrieval_sets(source, options.layout)
    unknown = [name for name in names if name not in sets]
    if unknown:
        message = f"{source} has no set {', '.join(unknown)}; it has {', '.join(sets)}"
        raise OptionError(message)
    chosen = [sets[name] for name in names or sets]
    for one in chosen:
        options.rules.check(one)
    return chosen


def _views(sets: Sequence[RetrievalSet], rules: ScoringRules) -> list[View]:
    """Everything to describe, each once, a picture's whole and its parts one after the other."""
    views = {View(path) for one in sets for path in one.database}
    views |= {rules.view(query) for one in sets for query in one.queries}
    return sorted(views, key=lambda view: (str(view.image), view.box or ()))


def _target(options: EvalOptions, stamp: Stamp, subject: Subject) -> AbstractContextManager[Target | None]:
    if options.form is None or options.out is None:
        return nullcontext()
    return open_target(options.form, options.out, stamp, subject.card)


def _describe_all(
    subject: Subject, views: Sequence[View], source: Path, target: Target | None, options: EvalOptions
) -> _Described:
    names = {view: ViewName(name_of(view.image, _root(source)), view.box) for view in views}
    if target is not None and target.whole_only:
        # who searches with what we export has whole pictures
        names |= {View(view.image): ViewName(name.name) for view, name in names.items()}
    descriptors = _known(subject, names, target)
    missing = [view for view in names if view not in descriptors]
    started = time.monotonic()
    if not missing:
        return _Described(descriptors, 0, 0.0)
    if subject.describe is None:
        raise _lacking(subject.path, source, [names[view] for view in missing], len(names))
    with options.progress("describing", len(missing)) as advance:
        for batch, rows_nd in describe_views(subject.describe, missing, threads=options.threads):
            descriptors.update(zip(batch, rows_nd, strict=True))
            if target is not None:
                target.add([names[view] for view in batch], rows_nd)
            advance(len(batch))
    return _Described(descriptors, len(missing), time.monotonic() - started)


def _known(subject: Subject, names: Mapping[View, ViewName], target: Target | None) -> dict[View, Descriptor]:
    """What need not be described: from the subject's file, copied to the target where that lacks it, or from there."""
    found: dict[View, Descriptor] = {}
    for view, name in names.items():
        kept = None if target is None else target.find(name)
        stored = None if subject.stored is None else subject.stored.find(name)
        if target is not None and kept is None and stored is not None:
            target.add([name], stored[None])
        if (descriptor := kept if stored is None else stored) is not None:
            found[view] = np.asarray(descriptor)
    return found


def _lacking(path: Path, source: Path, missing: Sequence[ViewName], count: int) -> InputError:
    named = ", ".join(map(str, missing[:_MOST_NAMED])) + (", ..." if len(missing) > _MOST_NAMED else "")
    return InputError(
        f"{path} lacks {len(missing)} of {count} pictures of {source}: {named}; "
        f"describe them with deepir-eval MODEL {source} --export npz -o {path}"
    )


def _facts(subject: Subject, source: Path, stamp: Stamp) -> dict[str, Any]:
    spec = subject.card.spec
    return {
        "model": str(subject.path),
        "dataset": str(source),
        "root": str(_root(source)),
        "fingerprint": spec.fingerprint,
        "numerics": subject.card.numerics.value,
        "runner": subject.runner,
        "backbone": spec.backbone,
        "sizes": spec.sizes,
        "dim": spec.dim,
        "parameters": subject.parameters,
        "bytes": subject.path.stat().st_size,
        "stamp": stamp,
    }


def _milliseconds_per_image(subject: Subject, view: View) -> float | None:
    """Median time for one decoded picture, preparation included, after two runs to warm up."""
    if subject.describe is None:
        return None
    image = read_image(view.image)
    times = []
    for _ in range(_TIMED_RUNS + 2):
        started = time.perf_counter()
        subject.describe([image], [view.box])
        times.append(time.perf_counter() - started)
    return round(1000 * statistics.median(times[2:]), 2)


def _root(source: Path) -> Path:
    """The folder below which the pictures of a dataset have their names."""
    return source if source.is_dir() else source.parent
