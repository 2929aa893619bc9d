"""The gate of a calibration: an INT8 file judged in every program that will run it, by retrieval where labels are."""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepir.calib.images import CalibrationSet
from deepir.calib.onnx_file import describe
from deepir.calib.programs import describe_in_openvino, openvino_runs
from deepir.card import ONNX_RUNTIME, GateVerdict, ModelCard
from deepir.descriptors import Descriptors
from deepir.gate import GateLimits, judge, verdict_text
from deepir.retrieval_set import Query, RetrievalSet
from deepir.runtime.openvino_refusal import OpenVinoRefusal
from deepir.runtime.progress import Report
from deepir.score import score

_FEWEST_QUERIES = 2
_STANDARD_ERRORS = 2


def judge_file(
    proto: Any,
    card: ModelCard,
    images: CalibrationSet,
    reference_nd: Descriptors,
    limits: GateLimits,
    report: Report = lambda _: None,
) -> tuple[GateVerdict, ...]:
    """The verdicts on an INT8 model: of ONNX Runtime first, then of OpenVINO where it will run the file.

    OpenVINO is left out where it is not installed, or where the variable DEEPIR_BACKEND names another program.

    Args:
        proto: The INT8 onnx.ModelProto.
        card: Of that model.
        images: Whose `judge` pictures are described, and their labels.
        reference_nd: The FP32 descriptors of those pictures.
        limits: What INT8 must share with FP32.
        report: Is told why OpenVINO does not judge.

    Raises:
        InputError: A picture that cannot be read.
        ModelError: The model gives values that are not finite.
    """
    verdicts = []
    for program, found_nd in _described(proto, card, images.judge, report):
        verdict = judge(reference_nd, found_nd, limits, program)
        verdicts.append(with_labels(verdict, images, reference_nd, found_nd, limits))
    return tuple(verdicts)


def with_labels(
    verdict: GateVerdict,
    images: CalibrationSet,
    reference_nd: Descriptors,
    found_nd: Descriptors,
    limits: GateLimits,
) -> GateVerdict:
    """The verdict with what is lost of mAP and of recall@1 where pictures share labels; else the same.

    Each labelled picture is a query for the others of its label. The loss fails the gate when it exceeds both the limit
    and twice its own standard error over the queries: from few pictures a loss below that may be chance.
    """
    rows = [row for row, path in enumerate(images.judge) if path in images.labels]
    dataset = _labelled_set([images.judge[row] for row in rows], images.labels)
    if dataset is None:
        return verdict
    queries = [row for row in rows if images.judge[row] in {query.image for query in dataset.queries}]
    reference, found = (
        score(dataset, descriptors_nd[queries], descriptors_nd[rows]) for descriptors_nd in (reference_nd, found_nd)
    )
    losses = np.subtract(reference.average_precisions, found.average_precisions).tolist()
    uncertain = _STANDARD_ERRORS * statistics.stdev(losses) / math.sqrt(len(losses))
    lost = statistics.fmean(losses)
    return dataclasses.replace(
        verdict,
        passed=verdict.passed and lost <= max(limits.map_loss, uncertain),
        map_loss=round(lost, 6),
        recall_loss=round(reference.recall_at[1] - found.recall_at[1], 6),
        queries=len(losses),
    )


def judged_text(verdict: GateVerdict, limits: GateLimits) -> str:
    """One line for people: the program, its verdict, and why a loss of mAP beyond the limit passed."""
    text = f"{verdict.program}: {verdict_text(verdict)}"
    if verdict.passed and verdict.map_loss is not None and verdict.map_loss > limits.map_loss:
        return f"{text}; mAP {-100 * verdict.map_loss:+.1f} is within chance for {verdict.queries} queries"
    return text


def passed(verdicts: Sequence[GateVerdict]) -> bool:
    """Whether every program passed."""
    return all(verdict.passed for verdict in verdicts)


def _described(proto: Any, card: ModelCard, paths: Sequence[Path], report: Report) -> Iterator[tuple[str, Descriptors]]:
    yield ONNX_RUNTIME, describe(proto, card, paths)
    if openvino_runs():
        try:
            yield describe_in_openvino(proto, paths)
        except OpenVinoRefusal as refusal:
            # it will not run the file on this machine either
            report(f"not judged in OpenVINO: {refusal.reason}")


def _labelled_set(paths: Sequence[Path], labels: Mapping[Path, str]) -> RetrievalSet | None:
    members: dict[str, set[Path]] = {}
    for path in paths:
        members.setdefault(labels[path], set()).add(path)
    queries = [
        Query(str(path), path, frozenset(members[labels[path]] - {path}), frozenset({path}))
        for path in paths
        if len(members[labels[path]]) > 1
    ]
    return RetrievalSet("labels", tuple(paths), tuple(queries)) if len(queries) >= _FEWEST_QUERIES else None
