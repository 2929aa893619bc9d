"""What came out of one frame, or of one box in it: what everything behind the loop is given."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.runtime.boxes import Part
from deepir.runtime.decide import Decision
from deepir.runtime.frame import Frame
from deepir.runtime.index import Index
from deepir.runtime.judgement import owners_metadata
from deepir.runtime.recogniser import Recognition

_DIGITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One answer.

    Attributes:
        frame: The picture.
        recognition: What it shows, or its part does.
        age: Seconds from its capture to this answer.
        index: What it was compared with; another one may be in its place by now.
        query_1d: (D,) The model's descriptor, of length 1; None where it finds no direction.
        decision: What several frames decided; None where each decides alone.
        part: The box that was looked at; None for the whole picture.
    """

    frame: Frame
    recognition: Recognition
    age: float
    index: Index
    query_1d: NDArray[np.float32] | None
    decision: Decision | None = None
    part: Part | None = None

    @property
    def shown(self) -> Recognition:
        """What to tell people: the recognition with the status and label that were decided."""
        decision = self.decision
        if decision is None:
            return self.recognition
        return replace(self.recognition, status=decision.status, label=decision.label)

    def record(self) -> dict[str, Any]:
        """The JSON object of this answer; where several frames decide, `status` and `label` are what they decided."""
        frame, recognition, decision = self.frame, self.recognition, self.decision
        facts = {
            "frame": frame.number,
            "time": None if frame.time is None else round(frame.time, _DIGITS),
            "seen_at": round(frame.seen_at, 3),
            "name": frame.name,
            **({} if self.part is None else self.part.record()),
            "age_ms": round(1000 * self.age, 1),
            "status": recognition.status,
            "label": recognition.label,
            "similarity": round(recognition.similarity, _DIGITS),
            "margin": None if recognition.margin is None else round(recognition.margin, _DIGITS),
            "topk": [[label, round(similarity, _DIGITS)] for label, similarity in recognition.top],
            **({"candidates": recognition.candidates} if recognition.status == "ambiguous" else {}),
            **({"metadata": metadata} if (metadata := self._metadata()) else {}),
            "ms": {step: round(value, 2) for step, value in recognition.milliseconds.items()},
        }
        return facts if decision is None else {**facts, **_decided(recognition, decision)}

    def _metadata(self) -> dict[str, Any]:
        """Of the most similar view of this frame, unless several frames decided for another label than the view's."""
        hit = self.recognition.hit
        other = self.decision is not None and (hit is None or hit.label != self.decision.label)
        return {} if other else dict(self.recognition.metadata)


def _decided(recognition: Recognition, decision: Decision) -> dict[str, Any]:
    """What several frames decided, and what the newest of them would have said alone."""
    hit = decision.hit
    place = {} if hit is None else {"key": hit.key, "view": hit.view, "metadata": dict(owners_metadata(hit.metadata))}
    return {
        "status": decision.status,
        "label": decision.label,
        "votes": [decision.votes, decision.of],
        "votes_similarity": None if decision.similarity is None else round(decision.similarity, _DIGITS),
        "frame_status": recognition.status,
        "frame_label": recognition.label,
        **place,
    }
