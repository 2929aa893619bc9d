"""The doctor's rehearsal: made-up pictures described, an index of them written, read and asked, all in a child.

The child is this module: python -m deepir.runtime.doctor_selftest MODEL
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from deepir.descriptors import Descriptors
from deepir.runtime.child import ask_child, tell
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.self_check import made_up_pictures

_SECONDS = 1800.0
_SCENES = 16
_SAME = 0.98
"""A stored picture that is asked for again is at least so similar to what was stored."""

_NEAR = 0.01
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came of it.

    Attributes:
        program, why: What ran the model.
        fingerprint, numerics: Of the model.
        scenes: Made-up scenes in the index, one picture each.
        found: Of how many the stored picture was found again; all, where everything works.
        recognised: Of how many a second view, shifted, darker and noisy, was recognised; says something of the model.
        similarity: The least of a stored picture with itself.
        milliseconds: For each step: load, describe (one picture), save, open, search (one query).
    """

    program: str
    why: str
    fingerprint: str
    numerics: str
    scenes: int
    found: int
    recognised: int
    similarity: float
    milliseconds: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every stored picture was found again."""
        return self.found == self.scenes and self.similarity >= _SAME


def rehearse(model: Path) -> Rehearsal:
    """Run all of it in a process of its own.

    Raises:
        DeepIRError: A step failed; says which file and why.
    """
    return Rehearsal(**ask_child(__name__, [str(model.absolute())], _SECONDS))


def rehearse_here(model: Path) -> Rehearsal:
    """Run all of it in this process.

    Raises:
        DeepIRError: A step failed.
    """
    times: dict[str, float] = {}
    with _timed(times, "load", lambda: Extractor.open(model)) as extractor:
        pictures = made_up_pictures(extractor.spec, 2 * _SCENES)
        extractor.describe(pictures[:1])
        descriptors_nd = _timed(times, "describe", lambda: extractor.describe(pictures))
        times["describe"] /= len(pictures)
        card, program, why = extractor.card, extractor.backend.name, extractor.why
    # as made_up_pictures gives them: each scene, then its second view
    stored_nd, seen_nd = descriptors_nd[::2], descriptors_nd[1::2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rehearsal.usearch"
        made = Index.create(card, model)
        for number, descriptor_1d in enumerate(stored_nd):
            made.add(_label(number), descriptor_1d[None], [f"{number}.png"])
        _timed(times, "save", lambda: made.save(path))
        index = _timed(times, "open", lambda: Index.open(path))
        with index:
            own = _timed(times, "search", lambda: _own_similarities(index, stored_nd))
            times["search"] /= _SCENES
            recognised = [similarity >= 0 for similarity in _own_similarities(index, seen_nd)]
    return Rehearsal(
        program=program,
        why=why,
        fingerprint=card.spec.fingerprint,
        numerics=card.numerics.value,
        scenes=_SCENES,
        found=sum(similarity >= _SAME for similarity in own),
        recognised=sum(recognised),
        similarity=round(min(own), 4),
        milliseconds={step: round(milliseconds, 3) for step, milliseconds in times.items()},
    )


def _own_similarities(index: Index, queries_nd: Descriptors) -> list[float]:
    """For each query the similarity of its own label, -1 where another label is clearly nearer."""
    similarities: list[float] = []
    for number, query_1d in enumerate(queries_nd):
        hits = index.search_labels(query_1d, _SCENES)
        own = next((hit.similarity for hit in hits if hit.label == _label(number)), -1.0)
        similarities.append(float(own) if hits and own >= hits[0].similarity - _NEAR else -1.0)
    return similarities


def _label(number: int) -> str:
    return f"scene/{number:02}"


def _timed(times: dict[str, float], step: str, work: Callable[[], _T]) -> _T:
    started = time.perf_counter()
    result = work()
    times[step] = 1000 * (time.perf_counter() - started)
    return result


if __name__ == "__main__":
    tell(lambda: asdict(rehearse_here(Path(sys.argv[1]))))
