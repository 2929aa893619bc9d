"""An index and an answer, in facts for programs and in words for people."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepir.errors import InputError
from deepir.runtime.index import Index
from deepir.runtime.index_whitening import WhiteningNote
from deepir.runtime.recogniser import Recognition, find_model

_DIGITS = 4
_MOST_LABELS = 20


def index_facts(index: Index, path: Path) -> dict[str, Any]:
    """What `deepir-index info --json` prints."""
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "items": len(index),
        "labels": index.labels,
        "dim": index.dim,
        "whitening": None if index.whitening is None else asdict(index.whitening),
        "generation": index.generation,
        "threshold": None if index.threshold is None else asdict(index.threshold),
        "model": {**asdict(index.model), "found": _found(index, path)},
    }


def describe_index(facts: dict[str, Any]) -> str:
    """The facts as lines of text."""
    model, threshold, labels = facts["model"], facts["threshold"], facts["labels"]
    limit = "none: fewer than two labels"
    if threshold is not None:
        basis = "stored views" if threshold["basis"] == "views" else "pictures of unknown things"
        limit = (
            f"{threshold['value']:.3f} for {threshold['far']:.2%} false accepts, from {threshold['impostors']} {basis}"
        )
    lines = [
        f"index      {facts['path']} ({facts['bytes'] / 1e6:.2f} MB), generation {facts['generation']}",
        f"items      {facts['items']} of {len(labels)} labels, descriptors of {facts['dim']} values",
        *([] if facts["whitening"] is None else [f"whitening  {WhiteningNote(**facts['whitening'])}"]),
        f"threshold  {limit}",
        f"model      {model['fingerprint']}, {model['found'] or model['absolute'] + ' (not there)'}",
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
    }


def recognition_text(facts: dict[str, Any]) -> str:
    """The facts as lines of text."""
    threshold = "none" if facts["threshold"] is None else f"{facts['threshold']:.3f}"
    first = f"{facts['label'] or 'unknown'}  (similarity {facts['similarity']:.3f}, threshold {threshold})"
    return "\n".join([first, *(f"  {similarity:6.3f} {label}" for label, similarity in facts["topk"])])


def _found(index: Index, path: Path) -> str | None:
    try:
        return str(find_model(index, path))
    except InputError:
        return None
