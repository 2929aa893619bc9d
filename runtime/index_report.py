"""An index and an answer, in facts for programs and in words for people."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepir.errors import IndexModelError, InputError
from deepir.runtime.codes import Dtype
from deepir.runtime.index import Index
from deepir.runtime.index_home import Home
from deepir.runtime.index_measure import measure
from deepir.runtime.index_whitening import WhiteningNote
from deepir.runtime.pictures import thumbnails_of
from deepir.runtime.recogniser import Recognition, find_model
from deepir.runtime.store import DescriptorStore

_DIGITS = 4
_MOST_LABELS = 20

_FORMS: dict[Dtype, str] = {
    "i8": "as 8-bit whole numbers (i8), each descriptor scaled to its largest value",
    "b1": "as signs, and behind them as 8-bit whole numbers (b1)",
    "f16": "as 16-bit numbers (f16)",
    "f32": "as 32-bit numbers (f32)",
}

_BASES = {
    "views": "stored views",
    "queries": "stored pictures as queries see them",
    "unknown": "pictures of unknown things",
}


def index_facts(path: Path, *, measuring: bool = False) -> dict[str, Any]:
    """What `deepir-index info --json` prints.

    Args:
        path: The index.
        measuring: Also search for stored views and compare with exact comparison.

    Raises:
        InputError: The file is missing.
        IndexFileError: It is damaged.
    """
    home, contents = Home.open(path, write=False, wait=0)
    index = Index(contents, home)
    footer, size = index.footer, path.stat().st_size
    measured = measure(contents) if measuring else None
    exact = not isinstance(contents.store, DescriptorStore) or contents.store.exact
    return {
        "path": str(path),
        "bytes": size,
        "bytes_per_item": round(size / len(index), 1) if len(index) else None,
        "items": len(index),
        "labels": index.labels,
        "dim": index.dim,
        "dtype": footer.codes.dtype,
        "search": "exact" if exact else "graph",
        "recall": None if footer.recall is None else asdict(footer.recall),
        "measured": None if measured is None else asdict(measured),
        "whitening": None if index.whitening is None else asdict(index.whitening),
        "generation": index.generation,
        "pending": index.pending,
        "removed": footer.removed,
        "threshold": None if index.threshold is None else asdict(index.threshold),
        "margin": index.margin,
        "thumbnails": _thumbnails(index, path),
        "model": {**asdict(index.model), "found": _found(index, path)},
        "references": _references(index, path),
        "foreign": index.foreign,
    }


def describe_index(facts: dict[str, Any]) -> str:
    """The facts as lines of text."""
    labels = facts["labels"]
    lines = [
        f"index      {facts['path']} ({facts['bytes'] / 1e6:.2f} MB), generation {facts['generation']}",
        f"items      {facts['items']} of {len(labels)} labels, descriptors of {facts['dim']} values",
        *_stored_lines(facts),
        *([] if facts["whitening"] is None else [f"whitening  {WhiteningNote(**facts['whitening'])}"]),
        f"threshold  {_threshold_text(facts['threshold'])}",
        f"margin     {facts['margin']:.3f}: a second label nearer than this makes an answer ambiguous",
        *_model_lines(facts),
    ]
    lines += [f"  {count:5} {label}" for label, count in list(labels.items())[:_MOST_LABELS]]
    if len(labels) > _MOST_LABELS:
        lines.append(f"  and {len(labels) - _MOST_LABELS} more labels (--json lists all)")
    return "\n".join(lines)


def recognition_facts(recognition: Recognition, threshold: float | None, image: Path) -> dict[str, Any]:
    """What `deepir-index query --json` prints."""
    return {
        "name": str(image),
        "status": recognition.status,
        "label": recognition.label,
        "similarity": round(recognition.similarity, _DIGITS),
        "margin": None if recognition.margin is None else round(recognition.margin, _DIGITS),
        "threshold": threshold,
        "topk": [[label, round(similarity, _DIGITS)] for label, similarity in recognition.top],
        "candidates": list(recognition.candidates),
        "view": None if recognition.hit is None else recognition.hit.view,
        "metadata": dict(recognition.metadata),
    }


def recognition_text(facts: dict[str, Any]) -> str:
    """The facts as lines of text."""
    threshold = "none" if facts["threshold"] is None else f"{facts['threshold']:.3f}"
    answer = facts["label"] or facts["status"]
    if facts["status"] == "ambiguous":
        answer = f"{answer}: {' or '.join(facts['candidates'])}"
    resembled = f" to {facts['view']}" if facts["view"] else ""
    first = f"{answer}  (similarity {facts['similarity']:.3f}{resembled}, threshold {threshold})"
    return "\n".join([first, *(f"  {similarity:6.3f} {label}" for label, similarity in facts["topk"])])


def _stored_lines(facts: dict[str, Any]) -> Iterator[str]:
    size = "" if facts["bytes_per_item"] is None else f", {facts['bytes_per_item']:.0f} bytes of the file for each item"
    yield f"stored     {_FORMS[facts['dtype']]}{size}"
    ways = {"exact": "by comparing with every view", "graph": "along a graph"}
    yield f"search     {ways[facts['search']]}"
    recall, measured = facts["recall"], facts["measured"]
    if recall is not None:
        yield (
            f"recall@10  {recall['value']:.3f} of what exact comparison of the descriptors finds, measured with "
            f"{recall['queries']} of {recall['items']} views when the index was made"
        )
    if measured is not None:
        yield (
            f"measured   {measured['recall']:.3f} of what exact comparison of the stored codes finds, with "
            f"{measured['queries']} of {measured['items']} views now; {measured['milliseconds']:.2f} ms a search"
        )
    if facts["pending"]:
        yield f"journal    changes of {facts['pending']} views that are not in the file yet"
    if facts["removed"]:
        yield f"removed    {facts['removed']} views whose values are in the file until deepir-index compact"
    if facts["thumbnails"] is not None:
        kept = facts["thumbnails"]
        yield f"pictures   {kept['files']} kept in {kept['folder']}, of {kept['side']} pixels"


def _threshold_text(threshold: dict[str, Any] | None) -> str:
    if threshold is None:
        return "none: fewer than two labels"
    if threshold["basis"] == "chosen":
        return f"{threshold['value']:.3f}, chosen by hand"
    basis = _BASES[threshold["basis"]]
    extrapolated = ", extrapolated from so few" if threshold["extrapolated"] else ""
    count = threshold["impostors"]
    return f"{threshold['value']:.3f} for {threshold['far']:.2%} false accepts, from {count} {basis}{extrapolated}"


def _model_lines(facts: dict[str, Any]) -> Iterator[str]:
    for name, model in (("model", facts["model"]), ("references", facts["references"])):
        if name == "model" and facts["foreign"]:
            yield f"model      not known: {facts['foreign']}"
        elif model is not None:
            yield f"{name:10} {model['fingerprint']}, {model['found'] or model['absolute'] + ' (not there)'}"


def _thumbnails(index: Index, path: Path) -> dict[str, Any] | None:
    if index.footer.thumbnails is None:
        return None
    folder = thumbnails_of(path)
    return {"side": index.footer.thumbnails, "folder": str(folder), "files": sum(1 for _ in folder.glob("*.jpg"))}


def _references(index: Index, path: Path) -> dict[str, Any] | None:
    model = index.footer.references
    return None if model is None else {**asdict(model), "found": _found(index, path, references=True)}


def _found(index: Index, path: Path, *, references: bool = False) -> str | None:
    try:
        return str(find_model(index, path, references=references))
    except (InputError, IndexModelError):
        return None
