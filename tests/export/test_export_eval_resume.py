"""Exports and cached distractors go on where an interrupted run stopped, and give what one run would have given."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from deepir.distill.checkpoint import Model, save_model
from deepir.errors import InputError, OptionError, ShapeError
from deepir.expansion import Expansion
from deepir.export.descriptor_files import ViewName, read_descriptor_file
from deepir.export.descriptor_targets import FORMS, Form
from deepir.export.eval_distractors import nearest_distractors, open_distractor_set, take_distractors
from deepir.export.evaluate import EvalOptions, ScoringRules, evaluate
from deepir.export.subject import Subject, open_subject, subject_of_model

OUT: dict[Form, str] = {"npz": "all.npz", "hloc": "all.h5", "kapture": "root"}


@pytest.fixture(scope="module")
def subject(make_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Subject:
    model = make_model(dim=8)
    path = tmp_path_factory.mktemp("subject") / "tiny.safetensors"
    save_model(model, path)
    return subject_of_model(path, model)


@pytest.fixture(scope="module")
def other(make_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Subject:
    model = make_model(dim=8, seed=1)
    path = tmp_path_factory.mktemp("other") / "tiny.safetensors"
    save_model(model, path)
    return subject_of_model(path, model)


def stopping_after(subject: Subject, batches: int) -> Subject:
    """The subject, but Ctrl-C comes when so many batches were described."""
    left = [batches]

    def describe(images: Sequence[Any], boxes: Sequence[Any]) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        assert subject.describe is not None
        return subject.describe(images, boxes)

    return replace(subject, describe=describe)


def counting(subject: Subject) -> tuple[Subject, list[int]]:
    """The subject, and a list that gets the size of each batch it describes."""
    sizes: list[int] = []

    def describe(images: Sequence[Any], boxes: Sequence[Any]) -> Any:
        sizes.append(len(images))
        assert subject.describe is not None
        return subject.describe(images, boxes)

    return replace(subject, describe=describe), sizes


def exporting(form: Form, folder: Path, **options: Any) -> EvalOptions:
    return EvalOptions(form=form, out=folder / OUT[form], **options)


def contents(form: Form, out: Path) -> dict[str, np.ndarray]:
    if form == "npz":
        file = read_descriptor_file(out)
        return {str(view): file.descriptors_nd[row] for view, row in file.rows.items()}
    if form == "kapture":
        folder = out / "reconstruction/global_features/tiny"
        paths = folder.rglob("*.gfeat")
        return {path.relative_to(folder).as_posix()[: -len(".gfeat")]: np.fromfile(path, "<f4") for path in paths}
    found = {}
    with h5py.File(out, "r") as file:

        def keep(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found[name.rpartition("/")[0]] = item[()]

        file.visititems(keep)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_export_goes_on_where_it_stopped(
    subject: Subject, pictures: Path, tmp_path: Path, form: Form
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopping_after(subject, 2), pictures, options=exporting(form, tmp_path))
    assert len(contents(form, tmp_path / OUT[form])) == 16
    rest, sizes = counting(subject)
    result = evaluate(rest, pictures, options=exporting(form, tmp_path))
    assert (result["described"], sizes[:4]) == (32, [8, 8, 8, 8])
    (tmp_path / "once").mkdir()
    once = evaluate(subject, pictures, options=exporting(form, tmp_path / "once"))
    assert result["sets"] == once["sets"]
    resumed, whole = (contents(form, folder / OUT[form]) for folder in (tmp_path, tmp_path / "once"))
    assert resumed.keys() == whole.keys()
    assert len(whole) == 48
    for name, descriptor in whole.items():
        np.testing.assert_array_equal(resumed[name], descriptor)


@pytest.mark.parametrize("form", FORMS)
def test_a_finished_export_is_not_described_again(subject: Subject, pictures: Path, tmp_path: Path, form: Form) -> None:
    first = evaluate(subject, pictures, options=exporting(form, tmp_path))
    second = evaluate(stopping_after(subject, 17), pictures, options=exporting(form, tmp_path))
    assert (first["described"], second["described"]) == (48, 0)
    assert first["sets"] == second["sets"]


@pytest.mark.parametrize("form", FORMS)
def test_the_export_of_another_model_is_refused_and_kept(
    subject: Subject, other: Subject, pictures: Path, tmp_path: Path, form: Form
) -> None:
    evaluate(subject, pictures, options=exporting(form, tmp_path))
    before = contents(form, tmp_path / OUT[form])
    sentence = f"{subject.card.spec.fingerprint}.*this one is {other.card.spec.fingerprint}"
    with pytest.raises(InputError, match=sentence):
        evaluate(stopping_after(other, 0), pictures, options=exporting(form, tmp_path))
    after = contents(form, tmp_path / OUT[form])
    assert all(np.array_equal(after[name], descriptor) for name, descriptor in before.items())


def test_an_npz_file_grows_by_the_pictures_that_are_new(subject: Subject, pictures: Path, tmp_path: Path) -> None:
    options = exporting("npz", tmp_path, layout="pictures")
    tea = evaluate(subject, pictures / "tea", options=options)
    again = evaluate(subject, pictures, options=options)
    assert (tea["described"], again["described"]) == (8, 48), "the names begin at the dataset's folder"
    assert (tea["sets"], tea["stamp"]["scoring"]) == ({}, None)
    assert len(read_descriptor_file(tmp_path / "all.npz").rows) == 56
    assert ViewName("tea/3.png") in read_descriptor_file(tmp_path / "all.npz").rows


@pytest.mark.parametrize("form", FORMS)
def test_descriptors_on_disk_are_handed_on_in_another_form(
    subject: Subject, pictures: Path, tmp_path: Path, form: Form
) -> None:
    evaluate(subject, pictures, options=exporting("npz", tmp_path))
    on_disk = open_subject(tmp_path / OUT["npz"])
    result = evaluate(on_disk, pictures, options=exporting(form, tmp_path))
    assert result["described"] == 0
    handed, made = contents(form, tmp_path / OUT[form]), contents("npz", tmp_path / OUT["npz"])
    assert handed.keys() == made.keys()
    for name, descriptor in made.items():
        np.testing.assert_array_equal(handed[name], descriptor)


@pytest.mark.parametrize("form", ["kapture", "hloc"])
def test_who_searches_with_whole_pictures_gets_whole_pictures(
    subject: Subject, pictures: Path, tmp_path: Path, form: Form
) -> None:
    dataset = tmp_path / "data"
    dataset.mkdir()
    for name in ("q", "a", "b"):
        (dataset / f"{name}.png").write_bytes((pictures / f"tea/{'qab'.index(name)}.png").read_bytes())
    query = {"id": "q", "image": "q.png", "positives": ["a.png"], "bbox": [0, 0, 30, 30]}
    entry = {"database": ["a.png", "b.png"], "queries": [query]}
    (dataset / "benchmark.json").write_text(json.dumps({"sets": {"one": entry}}))
    evaluate(subject, dataset, options=exporting(form, tmp_path))
    evaluate(subject, dataset, options=exporting("npz", tmp_path, rules=ScoringRules(crop=False)))
    handed, whole = contents(form, tmp_path / OUT[form]), contents("npz", tmp_path / OUT["npz"])
    assert handed.keys() == whole.keys() == {"q.png", "a.png", "b.png"}
    np.testing.assert_allclose(handed["q.png"], whole["q.png"], atol=1e-6)


@pytest.fixture
def split(pictures: Path, tmp_path: Path) -> Path:
    """A benchmark with the set `few` on tea and milk, and `all` on that and soap and wine; those alone in `more/`."""
    folder = tmp_path / "split"
    few, more = ([f"{label}/{view}.png" for label in labels for view in range(4)] for labels in ("tm", "sw"))
    names = {"t": "tea", "m": "milk", "s": "soap", "w": "wine"}
    few, more = ([names[name[0]] + name[1:] for name in group] for group in (few, more))
    for name in [*few, "tea/7.png", "milk/7.png"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((pictures / name).read_bytes())
    for name in more:
        (folder / "more" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "more" / name).write_bytes((pictures / name).read_bytes())
    queries = [
        {"id": label, "image": f"{label}/7.png", "positives": [name for name in few if label in name], "junk": [junk]}
        for label, junk in (("tea", "milk/0.png"), ("milk", "tea/1.png"))
    ]
    entries = {
        "few": {"database": few, "queries": queries},
        "all": {"database": few + [f"more/{name}" for name in more], "queries": queries},
    }
    (folder / "benchmark.json").write_text(json.dumps({"sets": entries}))
    return folder


def figures(result: dict[str, Any], name: str) -> dict[str, Any]:
    scores = result["sets"][name]
    ranked = [[(row["image"], row["positive"]) for row in ranking["ranked"]] for ranking in scores["rankings"]]
    return {
        **{key: scores[key] for key in ("average_precisions", "recall_at", "precision_at", "r_precision")},
        "r": ranked,
    }


@pytest.mark.parametrize("expansion", [None, Expansion("average", 3), Expansion("alpha", 7, 2.0)], ids=str)
def test_distractors_count_as_pictures_of_the_database_that_are_wrong(
    subject: Subject, split: Path, expansion: Expansion | None
) -> None:
    rules = ScoringRules(query_expansion=expansion, distractors=split / "more")
    few = evaluate(subject, split, ["few"], EvalOptions(rules=rules))
    whole = evaluate(subject, split, ["all"], EvalOptions(rules=ScoringRules(query_expansion=expansion)))
    assert figures(few, "few") == figures(whole, "all")
    assert few["sets"]["few"]["distractors"] == 8
    assert few["stamp"]["scoring"]["distractors"] == {"source": str(split / "more"), "count": 8}


def test_distractors_are_described_once(subject: Subject, split: Path) -> None:
    options = EvalOptions(rules=ScoringRules(distractors=split / "more"))
    first = evaluate(subject, split, ["few"], options)
    again, sizes = counting(subject)
    assert evaluate(again, split, ["few"], options)["sets"] == first["sets"]
    assert sum(sizes) == 10 + 17, "the pictures of the set, and the timing"
    (cached,) = split.glob("more.*.npy")
    assert subject.card.spec.fingerprint in cached.name
    assert np.load(cached).shape == (8, 8)


def same_rows(one: bytes, other: bytes) -> bool:
    """The same header and size, and values that differ by no more than the order of additions in two runs."""
    head = one.index(b"\n") + 1
    first, second = np.frombuffer(one[head:], "<f4"), np.frombuffer(other[head:], "<f4")
    return one[:head] == other[:head] and first.shape == second.shape and np.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("left", ["whole batches", "half a row", "half a header"])
def test_interrupted_distractors_go_on_where_they_stopped(
    subject: Subject, pictures: Path, tmp_path: Path, left: str
) -> None:
    folder = tmp_path / "more"
    folder.symlink_to(pictures)
    expected = open_distractor_set(pictures, subject)
    (cached,) = pictures.parent.glob(f"{pictures.name}.*.npy")
    values = cached.read_bytes()
    cached.unlink()
    with pytest.raises(KeyboardInterrupt):
        open_distractor_set(folder, stopping_after(subject, 2))
    (part,) = pictures.parent.glob(f"{pictures.name}.*.part")
    done = len(values) - 48 * 8 * 4 + 16 * 8 * 4
    assert same_rows(part.read_bytes(), values[:done])
    cut = {"whole batches": done, "half a row": done - 5, "half a header": 20}[left]
    part.write_bytes(values[:cut])
    rest, sizes = counting(subject)
    resumed = open_distractor_set(folder, rest)
    assert sum(sizes) == {"whole batches": 32, "half a row": 33, "half a header": 48}[left]
    assert same_rows(cached.read_bytes(), values)
    assert resumed.names is not None
    assert [Path(name).name for name in resumed.names] == [Path(name).name for name in expected.names or ()]
    assert not part.exists()
    cached.unlink()


def test_a_cache_with_more_rows_than_pictures_is_refused(subject: Subject, split: Path) -> None:
    open_distractor_set(split / "more", subject)
    (cached,) = split.glob("more.*.npy")
    cached.with_name(f"{cached.name}.part").write_bytes(cached.read_bytes() + bytes(32))
    cached.unlink()
    with pytest.raises(InputError, match="a row for each of 8 pictures"):
        open_distractor_set(split / "more", subject)


def test_a_folder_that_changed_is_described_anew(subject: Subject, split: Path, pictures: Path) -> None:
    assert open_distractor_set(split / "more", subject).count == 8
    (split / "more" / "new.png").write_bytes((pictures / "salt/0.png").read_bytes())
    assert open_distractor_set(split / "more", subject).count == 9


def test_distractors_come_from_files_too(subject: Subject, split: Path, tmp_path: Path) -> None:
    rules = ScoringRules(distractors=split / "more")
    expected = evaluate(subject, split, ["few"], EvalOptions(rules=rules))["sets"]["few"]["average_precisions"]
    evaluate(subject, split / "more", options=exporting("npz", tmp_path, layout="pictures"))
    (cached,) = split.glob("more.*.npy")
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "a.npy", np.load(cached)[:3])
    np.save(folder / "b.npy", np.load(cached)[3:])
    for source in (tmp_path / "all.npz", cached, folder):
        result = evaluate(subject, split, ["few"], EvalOptions(rules=ScoringRules(distractors=source)))
        assert result["sets"]["few"]["average_precisions"] == expected


def test_distractors_of_another_model_or_size_are_refused(
    subject: Subject, other: Subject, split: Path, tmp_path: Path
) -> None:
    evaluate(other, split / "more", options=exporting("npz", tmp_path, layout="pictures"))
    with pytest.raises(InputError, match="describe the distractors with the same model"):
        open_distractor_set(tmp_path / "all.npz", subject)
    np.save(tmp_path / "wide.npy", np.eye(9, dtype=np.float32))
    with pytest.raises(ShapeError, match="9 values, expected 8"):
        open_distractor_set(tmp_path / "wide.npy", subject)


def test_descriptors_on_disk_cannot_describe_a_folder(subject: Subject, split: Path, tmp_path: Path) -> None:
    evaluate(subject, split, options=exporting("npz", tmp_path))
    on_disk = open_subject(tmp_path / "all.npz")
    with pytest.raises(InputError, match=r"all\.npz cannot describe them"):
        open_distractor_set(split / "more", on_disk)
    open_distractor_set(split / "more", subject)
    assert open_distractor_set(split / "more", on_disk).count == 8


def test_the_nearest_distractors_are_found_across_files(subject: Subject, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for number, part in enumerate(np.split(rows, [3, 20])):
        np.save(tmp_path / f"{number}.npy", part)
    distractors = open_distractor_set(tmp_path, subject)
    found, similarity_qk = nearest_distractors(rows[:4], distractors, 5)
    np.testing.assert_array_equal(found, np.argsort(-(rows[:4] @ rows.T), axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(similarity_qk[:, 0], 1, atol=1e-6)
    np.testing.assert_array_equal(take_distractors(distractors, np.array([2, 3, 49])), rows[[2, 3, 49]])
    assert distractors.name(4) == f"{tmp_path}, row 4"


def test_database_expansion_and_distractors_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="--dbe"):
        ScoringRules(database_expansion=Expansion("average", 2), distractors=Path("more"))
