"""Benchmark: lists the written pictures as a retrieval task, with paths relative to its own file."""

import json
from pathlib import Path

DESCRIPTION = "photographs of products in a shop against studio views of the same and of further products"


def write_benchmark(out: Path) -> Path:
    """Write benchmark.json for the folders below out and return its path."""
    database = _images(out, "references/*/view_*.jpg") + _images(out, "distractors/*/view_*.jpg")
    task = {"desc": DESCRIPTION, "database": database, "queries": _queries(out)}
    train = [{"image": image, "label": image.split("/")[1]} for image in _images(out, "train/*/*.jpg")]
    benchmark = {"name": "shop", "version": 1, "sets": {"photo2reference": task}, "train": train}
    path = out / "benchmark.json"
    path.write_text(json.dumps(benchmark, indent=1) + "\n", encoding="utf-8")
    return path


def _queries(out: Path) -> list[dict[str, object]]:
    queries: list[dict[str, object]] = []
    for image in _images(out, "queries/*/photo_*.jpg"):
        _, label, name = image.split("/")
        positives = _images(out, f"references/{label}/view_*.jpg")
        key = f"{label}/{name.removesuffix('.jpg')}"
        queries.append({"id": key, "image": image, "positives": positives, "junk": []})
    return queries


def _images(out: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.glob(pattern))
