"""Unknown rejection of an index on real photographs: labels held out, thresholds asked for and what they let pass.

    python benchmarks/index_unknown.py --photos DIR --model MODEL.onnx [--model OTHER.npz ...] [-o runs/index_unknown]

PHOTOS holds the folders of a photo benchmark (grocery/, ie_tower/, scenes/, corridor/), each picture named
LABEL__NAME. A MODEL is a model file, whose descriptors stay in OUT as an .npz of `names` and `descriptors`, or such an
.npz. Labels are split at random, SPLITS times: some are indexed, the others are unknown things. The rule of
deepir.runtime.threshold and the margin were chosen on `train` and on the photographs of half of the labels, with
MobileNetV2 and ResNet-50; floors, references, places and other models only report.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors
from deepir.errors import reports_errors
from deepir.files import replacing
from deepir.image import list_images, read_image
from deepir.runtime import Extractor
from deepir.runtime.threshold import fit_threshold, threshold_from_unknown

Rows = NDArray[np.intp]
Rng = np.random.Generator

WISHES = (0.1, 0.05, 0.01)
MARGINS = (0.01, 0.02, 0.03, 0.05)
TRAIN = ("grocery/train",)
PHOTOGRAPHS = ("grocery/natural", "grocery/query", "grocery/distractor")
REFERENCES = ("grocery/iconic",)
TOWER = ("ie_tower",)
PLACES = ("ie_tower", "scenes", "corridor")
UNKNOWN_PICTURES = (10, 30, 100)


@dataclass(frozen=True, slots=True)
class Photos:
    """Every picture with its descriptor."""

    folders: NDArray[np.str_]
    labels: NDArray[np.str_]
    descriptors: Descriptors

    def of(self, *folders: str) -> Rows:
        return np.flatnonzero(np.isin(self.folders, folders))


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of the index, of further pictures of its labels, and of unknown things."""

    index: Rows
    known: Rows
    unknown: Rows


@dataclass(frozen=True, slots=True)
class Scene:
    """What is indexed and what is asked."""

    name: str
    split: Callable[[Photos, Rng], Split]


def held_out(folders: Sequence[str], views: int, share: float) -> Callable[[Photos, Rng], Split]:
    """Index some views of a share of the labels; the other labels are unknown."""

    def split(photos: Photos, rng: Rng) -> Split:
        rows = photos.of(*folders)
        index = _some_views(photos, rows, views, rng)
        known = _some_labels(photos, rows, share, rng)
        return Split(index[known(index)], np.setdiff1d(rows[known(rows)], index), rows[~known(rows)])

    return split


def references(share: float) -> Callable[[Photos, Rng], Split]:
    """Index the pack shots of a share of the labels; all photographs are asked."""

    def split(photos: Photos, rng: Rng) -> Split:
        index, rows = photos.of(*REFERENCES), photos.of(*PHOTOGRAPHS)
        known = _some_labels(photos, rows, share, rng)
        return Split(index[known(index)], rows[known(rows)], rows[~known(rows)])

    return split


def elsewhere(views: int) -> Callable[[Photos, Rng], Split]:
    """Index some views of all labels of the shop; pictures of places are unknown."""

    def split(photos: Photos, rng: Rng) -> Split:
        rows = photos.of(*PHOTOGRAPHS)
        index = _some_views(photos, rows, views, rng)
        return Split(index, np.setdiff1d(rows, index), photos.of(*PLACES))

    return split


SCENES = (
    Scene("`train`, 16 of 31 labels, 3 views (chosen on)", held_out(TRAIN, 3, 0.5)),
    Scene("`train`, 16 of 31 labels, 10 views (chosen on)", held_out(TRAIN, 10, 0.5)),
    Scene("`train`, 8 of 31 labels, 3 views (chosen on)", held_out(TRAIN, 3, 0.25)),
    Scene("`train`, 4 of 31 labels, 10 views (chosen on)", held_out(TRAIN, 10, 0.13)),
    Scene("photographs, 40 of 81 labels, 2 views", held_out(PHOTOGRAPHS, 2, 0.5)),
    Scene("photographs, 40 of 81 labels, 4 views", held_out(PHOTOGRAPHS, 4, 0.5)),
    Scene("photographs, 65 of 81 labels, 4 views", held_out(PHOTOGRAPHS, 4, 0.8)),
    Scene("references, 40 of 81; unknown: photographs", references(0.5)),
    Scene("floors of a building, 8 of 10, 30 views", held_out(TOWER, 30, 0.8)),
    Scene("photographs, all 81, 3 views; unknown: places", elsewhere(3)),
)
REFINED = (SCENES[1], SCENES[5], SCENES[7], SCENES[9])


def _some_views(photos: Photos, rows: Rows, views: int, rng: Rng) -> Rows:
    labels = photos.labels[rows]
    return np.concatenate([rng.permutation(rows[labels == label])[:views] for label in np.unique(labels)])


def _some_labels(photos: Photos, rows: Rows, share: float, rng: Rng) -> Callable[[Rows], NDArray[np.bool_]]:
    labels = np.unique(photos.labels[rows])
    chosen = rng.permutation(labels)[: round(len(labels) * share)]
    return lambda asked: np.isin(photos.labels[asked], chosen)


def describe_photos(folder: Path, model: Path, out: Path) -> Photos:
    path = model if model.suffix == ".npz" else out / f"{model.stem}.npz"
    if not path.exists():
        pictures = list_images(folder)
        names = [picture.relative_to(folder).as_posix() for picture in pictures]
        with Extractor.open(model) as extractor:
            rows = [extractor.describe([read_image(picture)])[0] for picture in pictures]
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, names=names, descriptors=np.stack(rows))
    with np.load(path) as stored:
        pairs = [str(name).rsplit("/", 1) for name in stored["names"]]
        labels = np.array([name.split("__")[0] for _, name in pairs])
        return Photos(np.array([folder for folder, _ in pairs]), labels, stored["descriptors"])


def best(photos: Photos, asked: Rows, index: Rows) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """The similarity of the nearest stored view of each picture, and its label."""
    similarity_qn = photos.descriptors[asked] @ photos.descriptors[index].T
    return similarity_qn.max(axis=1), photos.labels[index][similarity_qn.argmax(axis=1)]


def accepts(photos: Photos, split: Split, threshold: float) -> tuple[float, float]:
    """The shares of unknown things taken for a label and of known ones taken for theirs."""
    unknown, _ = best(photos, split.unknown, split.index)
    known, label = best(photos, split.known, split.index)
    right = label == photos.labels[split.known]
    return float(np.mean(unknown >= threshold)), float(np.mean((known >= threshold) & right))


def from_views(photos: Photos, split: Split, far: float) -> float:
    threshold = fit_threshold(photos.descriptors[split.index], [*map(str, photos.labels[split.index])], far)
    return 1.0 if threshold is None else threshold.value


def from_the_answer(photos: Photos, split: Split, far: float) -> float:
    """What no rule can know: the threshold that lets just the wanted share of these unknown things pass."""
    unknown, _ = best(photos, split.unknown, split.index)
    return float(np.nextafter(np.sort(unknown)[::-1][int(far * len(unknown))], np.float32(2)))


def halved_quantile(photos: Photos, split: Split, far: float) -> float:
    """The rule before: the (1 - far / 2) quantile of each view's best similarity to another label."""
    similarity_nn = photos.descriptors[split.index] @ photos.descriptors[split.index].T
    labels = photos.labels[split.index]
    similarity_nn[labels[:, None] == labels[None, :]] = -np.inf
    return float(np.quantile(similarity_nn.max(axis=1), 1 - far / 2))


def views_table(photos: Photos, splits: int) -> Iterator[list[str]]:
    """Measured false accepts and, in brackets, right answers; at 1 % also of the rule before and of the best one."""
    asked = [f"asked {far:.0%}" for far in WISHES]
    yield ["index", "first is right", *asked, "splits above 2 %", "rule before, 1 %", "best threshold, 1 %"]
    for scene in SCENES:
        found = []
        for seed in range(splits):
            split = scene.split(photos, np.random.default_rng(seed))
            values = [from_views(photos, split, far) for far in WISHES]
            others = [rule(photos, split, WISHES[-1]) for rule in (halved_quantile, from_the_answer)]
            found.append([accepts(photos, split, value) for value in (*values, *others, -1.0)])
        share_srm = np.array(found)
        cells = [f"{100 * false:.1f} ({100 * true:.1f})" for false, true in share_srm.mean(axis=0)]
        above = np.mean(share_srm[:, len(WISHES) - 1, 0] > 2 * WISHES[-1])
        first = f"{100 * share_srm[:, -1, 1].mean():.1f}"
        yield [scene.name, first, *cells[: len(WISHES)], f"{above:.0%}", *cells[len(WISHES) : -1]]


def unknown_table(photos: Photos, splits: int) -> Iterator[list[str]]:
    """Asked 1 %: the threshold from pictures of half of the unknown labels, measured on the other half."""
    yield ["index", *(f"{count} pictures" for count in UNKNOWN_PICTURES), *(f"{n}, quantile" for n in UNKNOWN_PICTURES)]
    far = WISHES[-1]
    for scene in REFINED:
        found = []
        for seed in range(splits):
            rng = np.random.default_rng(seed)
            split = scene.split(photos, rng)
            seen = _some_labels(photos, split.unknown, 0.5, rng)(split.unknown)
            others = Split(split.index, split.known, split.unknown[~seen])
            given, _ = best(photos, rng.permutation(split.unknown[seen]), split.index)
            ours = [threshold_from_unknown(given[:count], far).value for count in UNKNOWN_PICTURES]
            plain = [float(np.quantile(given[:count], 1 - far)) for count in UNKNOWN_PICTURES]
            found.append([accepts(photos, others, value) for value in (*ours, *plain)])
        cells = [f"{100 * false:.1f} ({100 * true:.1f})" for false, true in np.mean(found, axis=0)]
        yield [scene.name, *cells]


def leads(photos: Photos, known: Rows, index: Rows) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """How far the second label is behind the first, and whether the first is right."""
    similarity_qn = photos.descriptors[known] @ photos.descriptors[index].T
    labels = photos.labels[index]
    label_q = labels[similarity_qn.argmax(axis=1)]
    second_q = np.where(labels == label_q[:, None], -np.inf, similarity_qn).max(axis=1)
    return similarity_qn.max(axis=1) - second_q, label_q == photos.labels[known]


def margin_table(photos: Photos, splits: int) -> Iterator[list[str]]:
    """Shares of the right / of the wrong first labels that lead by less than the margin."""
    yield ["index", "first is right", *(f"margin {margin}" for margin in MARGINS)]
    photographs, shelf = photos.of("grocery/natural", "grocery/distractor"), photos.of("grocery/query")
    scenes: dict[str, list[tuple[Rows, Rows]]] = {
        f"`train`, 31 labels, {views} views (chosen on)": [
            (np.setdiff1d(photos.of(*TRAIN), index), index)
            for seed in range(splits)
            for index in [_some_views(photos, photos.of(*TRAIN), views, np.random.default_rng(seed))]
        ]
        for views in (3, 5, 10)
    }
    scenes["references, 81 labels; photographs asked"] = [(photographs, photos.of(*REFERENCES))]
    scenes["photographs, 81 labels; `query` asked"] = [(shelf, photographs)]
    for name, pairs in scenes.items():
        found = [leads(photos, known, index) for known, index in pairs]
        lead = np.concatenate([lead for lead, _ in found])
        right = np.concatenate([right for _, right in found])
        cells = [f"{100 * np.mean(lead[right] < m):.0f} / {100 * np.mean(lead[~right] < m):.0f}" for m in MARGINS]
        yield [name, f"{100 * right.mean():.1f}", *cells]


def markdown(rows: Iterable[list[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *body))


@click.command(context_settings={"show_default": True})
@click.option("--photos", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--model", "models", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--splits", default=100)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/index_unknown"))
@reports_errors
def main(folder: Path, models: tuple[Path, ...], splits: int, out: Path) -> None:
    """Print asked and measured false accepts, and what a margin costs, in percent."""
    out.mkdir(parents=True, exist_ok=True)
    for model in models:
        photos = describe_photos(folder, model, out)
        click.echo(f"\n{model.stem}, {photos.descriptors.shape[1]} values: false accepts (right answers), from views\n")
        click.echo(markdown(views_table(photos, splits)))
        click.echo("\nasked 1 %, from pictures of unknown things; then their plain quantile\n")
        click.echo(markdown(unknown_table(photos, splits)))
        click.echo("\nright / wrong first labels made ambiguous\n")
        click.echo(markdown(margin_table(photos, splits)))


if __name__ == "__main__":
    main()
