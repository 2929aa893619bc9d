"""The protocol stamp: what made a result, said in every form in which the result leaves deepir."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import deepir
from deepir.card import ModelCard
from deepir.errors import InputError, ModelError
from deepir.head import Head
from deepir.spec import Size

Stamp = dict[str, Any]
"""A JSON object: `schema`, `file` and `model` (its card), `runner`, `deepir`, `date`, `scoring` (None: not scored)."""

_SCHEMA = "deepir.stamp/1"
_WORDS = ("file", "runner", "deepir", "date")


def make_stamp(path: Path, card: ModelCard, runner: str) -> Stamp:
    """The stamp of descriptors that `runner` (program and device) makes now with the model file; not scored yet."""
    return {
        "schema": _SCHEMA,
        "file": path.name,
        "model": json.loads(card.to_json()),
        "runner": runner,
        **made_now(),
        "scoring": None,
    }


def made_now() -> dict[str, str]:
    """The version of deepir and the date (UTC, to the second)."""
    return {"deepir": deepir.__version__, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def read_stamp(text: str, path: Path) -> tuple[Stamp, ModelCard]:
    """A stamp written by another run, and its model's card; `path` is the file that the error names.

    Raises:
        ModelError: Not a stamp, of another schema, or its model's card is damaged.
    """
    try:
        stamp = json.loads(text)
        card = ModelCard.from_json(json.dumps(stamp["model"]))
        if stamp["schema"] != _SCHEMA or not all(isinstance(stamp[name], str) for name in _WORDS):
            message = f"schema {stamp['schema']!r}, {', '.join(f'{name} {stamp[name]!r}' for name in _WORDS)}"
            raise ValueError(message)
    except (KeyError, TypeError, ValueError, ModelError) as error:
        message = f"the stamp of {path} cannot be read ({error}): write the file again with deepir-eval --export"
        raise ModelError(message) from error
    return stamp, card


def check_same_model(found: ModelCard, wanted: ModelCard, place: str, cure: str) -> None:
    """Refuse to mix descriptors of two models, or of two numerical forms of one.

    Raises:
        InputError: Names both.
    """
    if _name(found) != _name(wanted):
        message = f"{place} holds descriptors of the model {_name(found)}, this one is {_name(wanted)}: {cure}"
        raise InputError(message)


def stamp_facts(stamp: Stamp) -> list[tuple[str, str]]:
    """The stamp in words, as (what, how) pairs."""
    card = ModelCard.from_json(json.dumps(stamp["model"]))
    spec = card.spec
    facts = [
        ("model", f"{stamp['file']}, {_name(card)}"),
        ("backbone", spec.backbone),
        ("head", head_words(spec.head)),
        ("whitening", f"{spec.dim} values, whitening: {spec.whitening}"),
        (
            "pictures",
            f"{sizes_words(spec.sizes)}, {spec.resize}, {spec.interpolation}{_combined(spec.head, spec.sizes)}",
        ),
    ]
    facts.append(("described by", f"{stamp['runner']}; {_made(stamp)}"))
    return facts if stamp["scoring"] is None else facts + _scoring_facts(stamp["scoring"])


def head_words(head: Head) -> str:
    """A head as a sentence without a verb."""
    over = f"{head.levels} levels of regions ({head.grid} grid)" if head.levels else "the whole map"
    fusion = "no fusion" if head.fusion == "none" else f"fusion {head.fusion} of stages {_joined(head.middle)}"
    lengths = "" if head.normalise_regions else ", regions not normalised"
    return f"{head.pooling} pooling over {over}, {fusion}{lengths}"


def sizes_words(sizes: tuple[Size, ...]) -> str:
    """`112` or `192x256 + 384x512`."""
    return " + ".join(str(height) if height == width else f"{height}x{width}" for height, width in sizes)


def _scoring_facts(scoring: dict[str, Any]) -> list[tuple[str, str]]:
    boxes = sum(entry["boxes"] for entry in scoring["sets"].values())
    queries = "cropped to their box" if scoring["crop"] and boxes else "whole pictures"
    expansions = f"of queries {scoring['query_expansion']}, of the database {scoring['database_expansion']}"
    facts = [
        ("queries", f"{queries}, {boxes} have a box"),
        ("expansion", expansions),
        ("average precision", scoring["average_precision"]),
    ]
    if scoring["distractors"] is not None:
        facts.append(("distractors", f"{scoring['distractors']['count']} from {scoring['distractors']['source']}"))
    for name, entry in scoring["sets"].items():
        left_out = f", {entry['left_out']} queries without positives left out" if entry["left_out"] else ""
        counts = f"{entry['queries']} queries on {entry['database']} pictures{left_out}"
        facts.append((f"set {name}", f"{counts}; {entry['protocol']}"))
    return [*facts, ("scored by", _made(scoring))]


def _made(entry: dict[str, Any]) -> str:
    return f"deepir {entry['deepir']}, {entry['date']}"


def _name(card: ModelCard) -> str:
    return f"{card.spec.fingerprint} ({card.numerics.value})"


def _combined(head: Head, sizes: tuple[Size, ...]) -> str:
    return f", combined by {head.combine}" if len(sizes) > 1 else ""


def _joined(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
