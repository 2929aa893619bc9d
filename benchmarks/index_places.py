"""Places on real walks: single frames against sequences, on mapped ways and on ways that the map lacks.

    python benchmarks/index_places.py --photos DIR --model MODEL.onnx [--clip WALK.mp4] [--whiten 0]
    python benchmarks/index_places.py --photos DIR --descriptors FILE.npz

PHOTOS holds benchmark.json and its pictures; FILE.npz holds `names` (paths below PHOTOS, `clip/000000` for the frames
of the clip) and `descriptors` (N, D). Two sets, each with several maps:

tower     A walk through each floor of a building, one picture a second. The map holds every fourth picture of every
          other floor, the queries are the pictures between; the other floors and the clip, of a floor that no map has,
          are unmapped. Right is at most six seconds away on the same walk; elsewhere on that floor is no answer.
corridor  A robot drives a corridor twice. The map holds two thirds of the first drive, the queries are the second;
          right are the positives of benchmark.json, the missing third is unmapped.

The way of deciding is chosen on the tower alone, and the corridor is scored with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from index_places_walks import Described, Trial, corridor_trials, describe_trial, tower_trials
from numpy.typing import NDArray

from deepir.datasets import RetrievalSet, read_retrieval_sets
from deepir.errors import reports_errors
from deepir.image import read_image
from deepir.open_set import Answers, Outcomes, outcomes_at, recall_at_full_precision, true_accepts_at
from deepir.runtime import Extractor, Hit, open_source
from deepir.runtime.keyframes import KeyframePolicy, Keyframes
from deepir.runtime.place_hits import WINDOW, SamePlace
from deepir.runtime.place_sequence import SequenceRule
from deepir.runtime.place_threshold import fit_place_threshold
from deepir.runtime.places import TOP, Moment, PlaceOptions, PlaceTracker
from deepir.runtime.pose import Spot

TOWER, CORRIDOR, CLIP = "ie_tower_frames", "corridor_vpr", "clip/"
FAR = 0.05
FARS = (0.01, 0.05)
NEIGHBOURS = SamePlace(window=2)
"""For the threshold: what lies further apart on the map is another place."""

NOT_ANSWERED = -1.0


@dataclass(frozen=True, slots=True)
class Way:
    """A way of deciding; `own` scores a place by the newest query alone, though the sequence must agree."""

    name: str
    options: PlaceOptions = field(default_factory=PlaceOptions)
    own: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one way on one set: means over its trials, and all outcomes at their calibrated thresholds."""

    full_precision: float
    accepts: tuple[float | None, ...]
    outcomes: list[Outcomes]


def single() -> Way:
    return Way("single frame", PlaceOptions(sequence=SequenceRule(length=1, needed=1)))


def sequence(needed: int, length: int, top: int, window: int) -> Way:
    options = PlaceOptions(top=top, same=SamePlace(window=window), sequence=SequenceRule(length=length, needed=needed))
    return Way(f"{needed} of {length}, top {top}, window {window}", options)


def score(way: Way, trials: Sequence[Trial], far: float = FAR) -> Scores:
    answers = [decide(way, trial) for trial in trials]
    return Scores(
        float(np.mean([recall_at_full_precision(answer).recall for answer in answers])),
        tuple(_mean_accepts(answers, wanted) for wanted in FARS),
        [outcomes_at(answer, threshold_of(trial, far)) for answer, trial in zip(answers, trials, strict=True)],
    )


def _mean_accepts(answers: Sequence[Answers], far: float) -> float | None:
    """None where there are too few unmapped queries for such a rate."""
    rates = [rate.true_accepts for rate in (true_accepts_at(answer, far) for answer in answers) if rate]
    return float(np.mean(rates)) if len(rates) == len(answers) else None


def threshold_of(trial: Trial, far: float) -> float:
    """From the map alone."""
    rows = np.stack([trial.described[name] for name in trial.stored.values()])
    threshold = fit_place_threshold(rows, [Spot(key) for key in trial.stored], NEIGHBOURS, far)
    return 1.0 if threshold is None else threshold.value


def decide(way: Way, trial: Trial) -> Answers:
    """One answer to each query, before any threshold."""
    search = searcher(trial)
    known, right, unknown = [], [], []
    for walk in trial.walks:
        tracker = PlaceTracker(way.options)
        for query in walk:
            found = tracker.update(search(query.name), Moment(query.number))
            hit = None if found.hit is None or found.hit.view in query.void else found.hit
            answer = NOT_ANSWERED if hit is None else hit.similarity if way.own else found.similarity
            if query.right:
                known.append(answer)
                right.append(hit is not None and hit.view in query.right)
            else:
                unknown.append(answer)
    return Answers(np.array(known), np.array(right, dtype=bool), np.array(unknown))


def searcher(trial: Trial) -> Callable[[str], Callable[[int], list[Hit]]]:
    keys, names = list(trial.stored), list(trial.stored.values())
    rows_nd = np.stack([trial.described[name] for name in names])

    def search_for(query: str) -> Callable[[int], list[Hit]]:
        similarity_n = rows_nd @ trial.described[query]
        order = np.argsort(-similarity_n, kind="stable").tolist()
        return lambda count: [
            Hit(keys[row], names[row], names[row], float(similarity_n[row]), {}) for row in order[:count]
        ]

    return search_for


def choose(trials: Sequence[Trial]) -> list[tuple[Way, Scores]]:
    """Every way of a sequence of five, the one with the most true accepts at FAR first."""
    ways = [sequence(needed, 5, top, window) for needed, top, window in product((3, 4), (1, 2, 3, 5), (1, 2, 3))]
    scored = [(way, score(way, trials)) for way in ways]
    return sorted(scored, key=lambda pair: -(pair[1].accepts[FARS.index(FAR)] or 0.0))


def row(name: str, scores: Scores) -> str:
    """Percent: threshold-free figures, then what happens at the calibrated threshold."""
    known, unknown, right, wrong, false = (
        sum(getattr(outcome, what) for outcome in scores.outcomes)
        for what in ("known", "unknown", "true_accepts", "wrong_labels", "false_accepts")
    )
    shares = [scores.full_precision, *scores.accepts, right / known]
    shares.append(right / (right + wrong + false) if right + wrong + false else None)
    cells = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
    cells += [f"{false} of {unknown}", f"{wrong} of {known}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def table(title: str, rows: Sequence[str]) -> str:
    head = [
        title,
        "recall at 100 % precision",
        *(f"recall at {far:.0%} false accepts" for far in FARS),
        "calibrated: recall",
        "precision",
        "unmapped accepted",
        "mapped, wrong place",
    ]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])


def keyframe_rows(dataset: RetrievalSet, photos: Path, described: Described) -> Iterator[str]:
    """How small the corridor's map becomes, and how often the nearest picture kept is found first."""
    names = [path.relative_to(photos).as_posix() for path in dataset.database]
    for change in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3):
        frames, kept = Keyframes(KeyframePolicy(least_change=change)), []
        for number, name in enumerate(names):
            if frames.wants(described[name]):
                frames.add(number, described[name])
                kept.append(number)
        rows_nd = np.stack([described[names[number]] for number in kept])
        errors = []
        for number, query in enumerate(dataset.queries):
            similarity_n = rows_nd @ described[query.image.relative_to(photos).as_posix()]
            errors.append(abs(kept[int(np.argmax(similarity_n))] - number))
        near = np.mean(np.array(errors) <= 5)
        yield f"| {change:g} | {len(kept)} of {len(names)} | {100 * near:.1f} | {np.median(errors):.0f} |"


def read_descriptors(path: Path) -> dict[str, NDArray[np.float32]]:
    with np.load(path) as file:
        return dict(zip(map(str, file["names"]), file["descriptors"], strict=True))


def describe(model: Path, photos: Path, names: Sequence[str], clip: Path | None) -> dict[str, NDArray[np.float32]]:
    with Extractor.open(model) as extractor:
        described = {name: extractor.describe([read_image(photos / name)])[0] for name in names}
        if clip is not None:
            with open_source(str(clip)) as source:
                described |= {f"{CLIP}{frame.number:06d}": extractor.describe([frame.image])[0] for frame in source}
    return described


def read_described(photos: Path, sets: Mapping[str, RetrievalSet], options: Mapping[str, Any]) -> Described:
    if (options["model"] is None) == (options["descriptors"] is None):
        message = "give either --model MODEL.onnx or --descriptors FILE.npz"
        raise click.UsageError(message)
    if options["descriptors"] is not None:
        return read_descriptors(options["descriptors"])
    queries = [query.image for query in sets[CORRIDOR].queries]
    paths = [*sets[TOWER].database, *sets[CORRIDOR].database, *queries]
    return describe(options["model"], photos, [path.relative_to(photos).as_posix() for path in paths], options["clip"])


def compared_ways(best: Way) -> list[Way]:
    rule, top, window = SequenceRule(), TOP, WINDOW
    others = [sequence(needed, length, top, window) for needed, length in ((2, 3), (4, 5), (5, 8))]
    default = sequence(rule.needed, rule.length, top, window)
    own = replace(default, name=f"{default.name}, own similarity", own=True)
    return list({way.name: way for way in (single(), default, own, best, *others)}.values())


@click.command(context_settings={"show_default": True})
@click.option("--photos", type=click.Path(path_type=Path), required=True, help="Folder with benchmark.json.")
@click.option("--model", type=click.Path(path_type=Path), help="Describes the pictures.")
@click.option("--clip", type=click.Path(path_type=Path), help="A walk through a floor that no map has.")
@click.option("--descriptors", type=click.Path(path_type=Path), help="Instead of a model.")
@click.option("--whiten", type=float, help="Whiten with each map, with this power; 0 only subtracts its mean.")
@click.option("--far", type=float, default=FAR, help="Wanted share of false accepts of the calibrated threshold.")
@reports_errors
def main(photos: Path, whiten: float | None, far: float, **options: Any) -> None:
    """Print the tables."""
    sets = read_retrieval_sets(photos / "benchmark.json")
    described = read_described(photos, sets, options)
    clip = sorted(name for name in described if name.startswith(CLIP))
    tower = [describe_trial(trial, described, whiten) for trial in tower_trials(sets[TOWER], photos, clip)]
    corridor = [describe_trial(trial, described, whiten) for trial in corridor_trials(sets[CORRIDOR], photos)]
    ranked = choose(tower)
    print(table("chosen on the tower: sequences of 5", [row(way.name, scores) for way, scores in ranked]))
    ways = compared_ways(ranked[0][0])
    for title, trials in (("tower", tower), ("corridor", corridor)):
        print(f"\n{table(title, [row(way.name, score(way, trials, far)) for way in ways])}")
    print("\n| least change | kept | recall within 5 pictures | median error, pictures |\n|---|---|---|---|")
    print("\n".join(keyframe_rows(sets[CORRIDOR], photos, described)))


if __name__ == "__main__":
    main()
