"""Descriptors on disk: .npz files, kapture's folders and hloc's HDF5, each bound to the model that made it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from deepir.card import ModelCard
from deepir.errors import DeepIRError, InputError, ModelError, OptionError
from deepir.export.descriptor_files import ViewName, name_of, read_descriptor_file, write_descriptor_file
from deepir.export.descriptor_targets import FORMS, Form, open_target
from deepir.export.eval_stamp import make_stamp, read_stamp, stamp_facts
from deepir.spec import ModelSpec, Numerics

DIM = 6
SPEC = ModelSpec(
    backbone="timm:resnet18",
    sizes=((64, 64), (96, 128)),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    stride=32,
    channels=12,
    dim=DIM,
    whitening="PCA of shop pictures",
    weights="ab" * 32,
)
CARD = ModelCard(SPEC)
STAMP = make_stamp(Path("models/student.onnx"), CARD, "ONNX Runtime, CPU")
WHOLE = [ViewName("tea/0.png"), ViewName("tea/1.png"), ViewName("salt & soap/ä.png")]
BOXED = ViewName("tea/0.png", (1.25, 2.0, 30.0, 40.5))
OUT: dict[Form, str] = {"npz": "all.npz", "hloc": "all.h5", "kapture": "root"}
KAPTURE = Path("reconstruction/global_features/student")


@pytest.fixture
def descriptors(rng: np.random.Generator) -> dict[ViewName, np.ndarray]:
    rows = rng.normal(size=(4, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return dict(zip([*WHOLE, BOXED], rows, strict=True))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def write(form: Form, folder: Path, descriptors: dict[ViewName, np.ndarray], card: ModelCard = CARD) -> Path:
    stamp = {**STAMP, "model": json.loads(card.to_json()), "scoring": {"crop": True}}
    with open_target(form, folder / OUT[form], stamp, card) as target:
        target.add(list(descriptors), np.stack(list(descriptors.values())))
    return folder / OUT[form]


def test_an_npz_file_gives_back_every_bit_with_names_boxes_and_stamp(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray]
) -> None:
    write_descriptor_file(tmp_path / "a.npz", descriptors, STAMP)
    file = read_descriptor_file(tmp_path / "a.npz")
    assert list(file.rows) == list(descriptors)
    for view, descriptor in descriptors.items():
        np.testing.assert_array_equal(file.find(view), descriptor)
    assert (file.stamp, file.card) == (STAMP, CARD)
    assert file.find(ViewName("tea/9.png")) is None
    assert file.find(ViewName("tea/1.png", BOXED.box)) is None


def test_numpy_alone_reads_an_npz_file(tmp_path: Path, descriptors: dict[ViewName, np.ndarray]) -> None:
    write_descriptor_file(tmp_path / "a.npz", descriptors, STAMP)
    arrays = np.load(tmp_path / "a.npz")
    assert arrays["names"].tolist() == ["tea/0.png", "tea/1.png", "salt & soap/ä.png", "tea/0.png"]
    assert arrays["descriptors"].dtype == np.float32
    assert np.isnan(arrays["boxes"]).tolist() == [[True] * 4] * 3 + [[False] * 4]
    assert json.loads(str(arrays["stamp"]))["model"]["fingerprint"] == SPEC.fingerprint


def altered(folder: Path, kept: dict[ViewName, np.ndarray], /, **changes: Callable[[Any], Any]) -> Path:
    """A file some of whose arrays were changed; an array becomes None to leave it out."""
    path = folder / "altered.npz"
    write_descriptor_file(path, kept, STAMP)
    arrays = {**np.load(path)}
    arrays |= {name: change(arrays[name]) for name, change in changes.items()}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(descriptors_nd: np.ndarray) -> np.ndarray:
        descriptors_nd[1, 2] = value
        return descriptors_nd

    return change


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"descriptors": with_value(np.nan)}, r"tea/1\.png has length nan"),
        ({"descriptors": with_value(np.inf)}, r"tea/1\.png has length inf"),
        ({"descriptors": lambda rows: rows * 2}, "length 2, expected 1"),
        ({"descriptors": lambda rows: rows[:, :-1]}, "descriptors of 6 values"),
        ({"descriptors": lambda rows: rows[:-1]}, "N descriptors"),
        ({"descriptors": lambda rows: rows.astype(np.int64)}, "int64"),
        ({"boxes": lambda boxes: boxes[:, :3]}, "N boxes of 4"),
        ({"names": lambda names: names.astype(object)}, "not a descriptors file"),
        ({"names": lambda names: np.array(["same"] * 4), "boxes": lambda boxes: boxes * np.nan}, "twice"),
        ({"names": lambda names: names[:0], "boxes": lambda b: b[:0], "descriptors": lambda d: d[:0]}, "names <U"),
        ({"stamp": lambda _stamp: None}, "stamp"),
        ({"stamp": lambda _stamp: np.array("{}")}, "stamp"),
        ({"stamp": lambda _stamp: np.array("[1]")}, "stamp"),
        ({"stamp": lambda stamp: np.array(str(stamp).replace("deepir.stamp/1", "deepir.stamp/9"))}, "stamp/9"),
        ({"stamp": lambda stamp: np.array(str(stamp).replace('"dim": 6', '"dim": 7'))}, "stamp"),
        ({"stamp": lambda stamp: np.array(str(stamp).replace('"student.onnx"', "null"))}, "stamp"),
    ],
)
def test_an_altered_npz_file_is_refused_in_a_sentence(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray], changes: dict[str, Any], words: str
) -> None:
    path = altered(tmp_path, descriptors, **changes)
    with pytest.raises(ModelError, match=words) as caught:
        read_descriptor_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 100, 900])
def test_a_truncated_npz_file_is_refused(tmp_path: Path, descriptors: dict[ViewName, np.ndarray], length: int) -> None:
    path = tmp_path / "a.npz"
    write_descriptor_file(path, descriptors, STAMP)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match="truncated or not a descriptors file"):
        read_descriptor_file(path)


def test_a_single_array_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(ModelError, match="not a descriptors file"):
        read_descriptor_file(tmp_path / "a.npz")
    with pytest.raises(InputError, match="no such file"):
        read_descriptor_file(tmp_path / "absent.npz")


def test_pickles_in_an_npz_file_are_not_loaded(tmp_path: Path, descriptors: dict[ViewName, np.ndarray]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = altered(tmp_path, descriptors, stamp=lambda _stamp: np.array([Evil()], dtype=object))
    with pytest.raises(ModelError, match="not a descriptors file"):
        read_descriptor_file(path)
    assert not (tmp_path / "ran").exists()


def test_a_descriptor_without_direction_is_allowed(tmp_path: Path, descriptors: dict[ViewName, np.ndarray]) -> None:
    descriptors[BOXED] = np.zeros(DIM, dtype=np.float32)
    write_descriptor_file(tmp_path / "a.npz", descriptors, STAMP)
    assert not read_descriptor_file(tmp_path / "a.npz").find(BOXED).any()


@pytest.mark.parametrize("form", FORMS)
def test_a_target_finds_what_an_earlier_run_left(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray], form: Form
) -> None:
    out = write(form, tmp_path, descriptors)
    with open_target(form, out, STAMP, CARD) as target:
        for view in WHOLE:
            np.testing.assert_array_equal(target.find(view), descriptors[view])
        assert target.find(ViewName("tea/9.png")) is None
        kept = target.find(BOXED)
    assert (kept is None) == (form != "npz"), "only npz tells a part of a picture from the whole"


@pytest.mark.parametrize("form", ["kapture", "hloc"])
def test_what_was_added_before_an_error_stays(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray], form: Form
) -> None:
    def stopped() -> None:
        with open_target(form, tmp_path / OUT[form], STAMP, CARD) as target:
            target.add(WHOLE[:2], np.stack([descriptors[view] for view in WHOLE[:2]]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with open_target(form, tmp_path / OUT[form], STAMP, CARD) as target:
        assert [target.find(view) is None for view in WHOLE] == [False, False, True]


@pytest.mark.parametrize("count", [0, 1])
def test_an_interrupted_npz_export_leaves_a_whole_file_of_what_was_added(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray], count: int
) -> None:
    added = dict(list(descriptors.items())[:count])

    def stopped() -> None:
        with open_target("npz", tmp_path / "a.npz", STAMP, CARD) as target:
            if added:
                target.add(list(added), np.stack(list(added.values())))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"] * count
    if added:
        file = read_descriptor_file(tmp_path / "a.npz")
        assert (list(file.rows), file.stamp["scoring"]) == (list(added), None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "other",
    [ModelCard(replace(SPEC, weights="cd" * 32)), ModelCard(SPEC, Numerics.INT8)],
    ids=["another model", "another form"],
)
def test_descriptors_of_another_model_are_refused(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray], form: Form, other: ModelCard
) -> None:
    out = write(form, tmp_path, descriptors, other)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"{other.spec.fingerprint}.*this one is {SPEC.fingerprint}"):
        write(form, tmp_path, descriptors)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert out.exists()


def test_kapture_has_the_files_of_its_format_1_1(tmp_path: Path, descriptors: dict[ViewName, np.ndarray]) -> None:
    folder = write("kapture", tmp_path, descriptors) / KAPTURE
    assert (folder / "global_features.txt").read_text() == (
        "# kapture format: 1.1\n# name, dtype, dsize, metric_type\ndeepir, float32, 6, L2\n"
    )
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.gfeat")}
    assert set(found) == {f"{view.name}.gfeat" for view in WHOLE}
    for view in WHOLE:
        np.testing.assert_array_equal(np.fromfile(found[f"{view.name}.gfeat"], dtype="<f4"), descriptors[view])
    assert read_stamp((folder / "deepir.json").read_text(), folder) == (STAMP, CARD), "it says nothing of scores"
    assert not list(folder.rglob("*.part"))


def test_hloc_finds_its_dataset_under_the_name_of_each_picture(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray]
) -> None:
    with h5py.File(write("hloc", tmp_path, descriptors), "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert set(names) == {f"{view.name}/global_descriptor" for view in WHOLE}
        for view in WHOLE:
            np.testing.assert_array_equal(file[view.name]["global_descriptor"][()], descriptors[view])
        assert file[WHOLE[0].name]["global_descriptor"].dtype == np.float32
        assert read_stamp(file.attrs["deepir"], tmp_path) == (STAMP, CARD), "it says nothing of scores"


def test_a_descriptor_that_was_cut_short_is_written_again(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray]
) -> None:
    path = write("kapture", tmp_path, descriptors) / KAPTURE / "tea/0.png.gfeat"
    path.write_bytes(path.read_bytes()[:-4])
    with open_target("kapture", tmp_path / OUT["kapture"], STAMP, CARD) as target:
        assert target.find(WHOLE[0]) is None
        target.add(WHOLE[:1], descriptors[WHOLE[0]][None])
        np.testing.assert_array_equal(target.find(WHOLE[0]), descriptors[WHOLE[0]])


def test_a_descriptor_in_hdf5_of_another_size_is_written_again(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray]
) -> None:
    out = write("hloc", tmp_path, descriptors)
    with h5py.File(out, "a") as file:
        del file["tea/0.png/global_descriptor"]
        file["tea/0.png/global_descriptor"] = np.ones(2)
    with open_target("hloc", out, STAMP, CARD) as target:
        assert target.find(WHOLE[0]) is None
        target.add(WHOLE[:1], descriptors[WHOLE[0]][None])
        np.testing.assert_array_equal(target.find(WHOLE[0]), descriptors[WHOLE[0]])


def test_files_of_other_programs_are_left_alone(tmp_path: Path, descriptors: dict[ViewName, np.ndarray]) -> None:
    with h5py.File(tmp_path / OUT["hloc"], "w") as file:
        file["tea/0.png/global_descriptor"] = np.ones(DIM)
    folder = tmp_path / OUT["kapture"] / KAPTURE
    folder.mkdir(parents=True)
    (folder / "global_features.txt").write_text("# kapture format: 1.1\ndirtorch, float32, 6, L2\n")
    for form in ("hloc", "kapture"):
        with pytest.raises(InputError, match="another program"):
            write(form, tmp_path, descriptors)


def test_what_is_no_hdf5_is_refused(tmp_path: Path, descriptors: dict[ViewName, np.ndarray]) -> None:
    (tmp_path / OUT["hloc"]).write_bytes(b"not HDF5 at all" * 100)
    with pytest.raises(ModelError, match="HDF5"):
        write("hloc", tmp_path, descriptors)


def test_npz_asks_for_its_suffix(tmp_path: Path, descriptors: dict[ViewName, np.ndarray]) -> None:
    with pytest.raises(OptionError, match=r"\.npz"), open_target("npz", tmp_path / "a.h5", STAMP, CARD):
        pass


@pytest.mark.parametrize("form", ["kapture", "hloc"])
@pytest.mark.parametrize("name", ["../out.png", "tea/../../out.png", "/out.png", ""])
def test_no_name_leads_out_of_the_target(
    tmp_path: Path, descriptors: dict[ViewName, np.ndarray], form: Form, name: str
) -> None:
    hostile = {ViewName(name): descriptors[BOXED]}
    with pytest.raises(InputError, match="below the dataset's folder"):
        write(form, tmp_path, hostile)
    assert not [path for path in tmp_path.rglob("*") if "out.png" in path.name]


def test_kapture_has_no_room_for_commas(tmp_path: Path, descriptors: dict[ViewName, np.ndarray]) -> None:
    with pytest.raises(InputError, match="without a comma"):
        write("kapture", tmp_path, {ViewName("tea, green/0.png"): descriptors[BOXED]})


@pytest.mark.parametrize("file", ["..", "a,b.onnx", ""])
def test_the_name_of_the_model_cannot_lead_out_of_kapture_either(tmp_path: Path, file: str) -> None:
    with pytest.raises(DeepIRError), open_target("kapture", tmp_path, {**STAMP, "file": file}, CARD):
        pass
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_named_below_the_dataset(tmp_path: Path) -> None:
    assert name_of(tmp_path / "tea" / "0.png", tmp_path) == "tea/0.png"
    assert name_of(Path("/elsewhere/0.png"), tmp_path) == "/elsewhere/0.png"


def test_the_stamp_says_everything_that_makes_a_result() -> None:
    scoring = {
        "crop": True,
        "query_expansion": "aqe:1",
        "database_expansion": "none",
        "average_precision": "trapezoid",
        "distractors": {"source": "flickr100k", "count": 100071},
        "sets": {"oxford": {"protocol": "Oxford 5k", "queries": 55, "boxes": 54, "database": 5063, "left_out": 2}},
        "deepir": "9.9",
        "date": "2026-01-02T03:04:05+00:00",
    }
    facts = dict(stamp_facts({**STAMP, "scoring": scoring}))
    text = "; ".join(f"{what}: {how}" for what, how in facts.items())
    for word in (
        *("student.onnx", SPEC.fingerprint, "fp32", "timm:resnet18", "max pooling over 2 levels", "no fusion"),
        *(
            "64 + 96x128",
            "stretch",
            "area",
            "combined by sum",
            "cropped",
            "54 have a box",
            "PCA of shop pictures",
            "aqe:1",
            "none",
        ),
        *("trapezoid", "Oxford 5k", "55 queries on 5063 pictures", "2 queries without positives left out"),
        *("100071 from flickr100k", "ONNX Runtime, CPU", STAMP["deepir"], STAMP["date"], "9.9", "2026-01-02"),
    ):
        assert word in text
    assert "whole pictures" in dict(stamp_facts({**STAMP, "scoring": {**scoring, "crop": False}}))["queries"]
    assert "oxford" not in str(stamp_facts(STAMP))
