"""Frames in, descriptors out: reading, preparing and the model each in a thread of its own, so that none waits."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeVar

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.inputs import InputGroup
from deepir.runtime.boxes import Part, Parts
from deepir.runtime.extractor import Extractor
from deepir.runtime.frame import Frame, Source
from deepir.runtime.handover import Handover
from deepir.runtime.index import Index
from deepir.runtime.memory import give_back
from deepir.runtime.recogniser import Described, Recogniser, described
from deepir.runtime.roi import Roi

_T = TypeVar("_T")

_AHEAD = 2
"""Things that wait between two threads: one to begin with at once, and one in the making."""

_FAREWELL = 2.0
"""Seconds that a thread gets to end: one that reads a silent pipe does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """Which frames are looked at, and what of them.

    Attributes:
        every: One of so many frames.
        fps_max: No more frames a second of a live source; None for all.
        roi: The part of each frame that is seen at all.
        parts: The boxes of each frame to look at; None for the whole frame.
    """

    every: int = 1
    fps_max: float | None = None
    roi: Roi | None = None
    parts: Parts | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """A frame with the descriptors of what was looked at.

    Attributes:
        frame: Of the source; of its region of interest, the part.
        parts: Its boxes, which may be none; one None for the whole frame.
        queries: The descriptor of each.
        index: What to compare them with: of the same model as the one that described them.
    """

    frame: Frame
    parts: tuple[Part | None, ...]
    queries: tuple[Described, ...]
    index: Index


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    frame: Frame
    parts: tuple[Part | None, ...]
    batches: list[tuple[list[InputGroup], int]]
    card: ModelCard
    seconds: float


class Pipeline:
    """Takes a source's frames through the model of a recogniser; close it before the recogniser.

    Of a live source only the newest prepared frame waits for the model, and the newest descriptor for whoever takes; of
    files every one does.

    Args:
        recogniser: Its model runs in the pipeline's own thread as long as this is open.
        source: Is read here, and closed with this.
        looking: At what.
    """

    def __init__(self, recogniser: Recogniser, source: Source, looking: Looking | None = None) -> None:
        self._recogniser = recogniser
        self._source = source
        self._looking = looking or Looking()
        self._read: Handover[Frame] = Handover(_AHEAD)
        self._prepared: Handover[_Prepared] = Handover(1 if source.live else _AHEAD, newest=source.live)
        # whoever takes may be away for seconds, and then wants to hear of what is to be seen now
        self._looked: Handover[Looked] = Handover(1 if source.live else _AHEAD, newest=source.live)
        self._at_work_since: dict[str, float] = {}
        self._fresh = threading.Lock()
        self._fresh_index: Index | None = None
        self._fresh_extractor: Extractor | None = None
        # a camera has a thread already, and a frame of it that waits for another one is an old frame
        frames: Iterable[Frame] = source if source.live else self._read
        self._threads = [
            _started("prepare", self._prepared, lambda: self._prepare(frames)),
            _started("describe", self._looked, self._describe),
        ]
        if not source.live:
            self._threads.append(_started("read", self._read, lambda: _hand(self._source, self._read)))

    def take(self, seconds: float) -> Looked | None:
        """The next frame; None when there was none in time, or no more comes.

        Raises:
            DeepIRError: What went wrong with the source or the model, after the frames before it.
        """
        return self._looked.take(seconds)

    @property
    def over(self) -> bool:
        """Whether no more comes."""
        return self._looked.over

    @property
    def stuck(self) -> float:
        """Seconds for which the same pictures are in the model, or made ready for it; a hung driver gives no error."""
        now = time.monotonic()
        return max((now - since for since in list(self._at_work_since.values())), default=0.0)

    def replace(self, index: Index, extractor: Extractor | None = None) -> None:
        """Compare with another index, and describe with another model, from the next frame on that the model takes.

        Args:
            index: Of the model that describes from then on.
            extractor: That model; None when it stays. The one before is closed when it is done.
        """
        with self._fresh:
            if self._fresh_extractor is not None and extractor is not None:
                self._fresh_extractor.close()
            self._fresh_index = index
            self._fresh_extractor = extractor or self._fresh_extractor

    def close(self) -> None:
        """Stop reading and wait for the threads."""
        for handover in (self._looked, self._prepared, self._read):
            handover.close()
        if self._source.live:
            self._source.close()
        for thread in self._threads:
            thread.join(_FAREWELL)
        with self._fresh:
            if self._fresh_extractor is not None:
                self._fresh_extractor.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, frames: Iterable[Frame]) -> None:
        for frame in _chosen(frames, self._looking, live=self._source.live):
            parts = (None,) if self._looking.parts is None else self._looking.parts.of(frame)
            # of a file every frame goes on, for the video; of a camera one with boxes would make way for one without
            if not parts and self._source.live:
                continue
            if not self._prepared.put(self._as_inputs(frame, parts, self._recogniser.extractor)):
                return

    def _describe(self) -> None:
        for waited in self._prepared:
            self._take_fresh()
            extractor, index = self._recogniser.extractor, self._recogniser.index
            fits = waited.card is extractor.card
            prepared = waited if fits else self._as_inputs(waited.frame, waited.parts, extractor)
            started = time.perf_counter()
            rows = [row for batch in prepared.batches for row in self._run(extractor, *batch)]
            seconds = time.perf_counter() - started
            milliseconds = {"prepare": 1000 * prepared.seconds, "describe": 1000 * seconds}
            queries = tuple(described(row, milliseconds) for row in rows)
            if not self._looked.put(Looked(prepared.frame, prepared.parts, queries, index)):
                return

    def _as_inputs(self, frame: Frame, parts: tuple[Part | None, ...], extractor: Extractor) -> _Prepared:
        started = time.perf_counter()
        parts = self._seen(frame, parts, extractor)
        boxes = [None if part is None else part.box for part in parts]
        size = extractor.batch_size
        batches = []
        for chunk in (boxes[start : start + size] for start in range(0, len(boxes), size)):
            with self._at_work():
                batches.append((extractor.prepare([frame.image] * len(chunk), chunk), len(chunk)))
        return _Prepared(frame, parts, batches, extractor.card, time.perf_counter() - started)

    def _seen(self, frame: Frame, parts: tuple[Part | None, ...], extractor: Extractor) -> tuple[Part | None, ...]:
        # at the border trackers predict boxes that lie beside the picture
        seen = tuple(part for part in parts if part is None or extractor.sees(frame.image, part.box))
        if self._looking.parts is not None:
            self._looking.parts.beside += len(parts) - len(seen)
        return seen

    def _run(self, extractor: Extractor, groups: list[InputGroup], count: int) -> Descriptors:
        with self._at_work():
            return extractor.run(groups, count)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        thread = threading.current_thread().name
        self._at_work_since[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._at_work_since[thread]

    def _take_fresh(self) -> None:
        with self._fresh:
            index, extractor = self._fresh_index, self._fresh_extractor
            self._fresh_index = self._fresh_extractor = None
        if extractor is not None:
            before, self._recogniser.extractor = self._recogniser.extractor, extractor
            before.close()
            del before
        if index is not None:
            self._recogniser.index = index
            give_back()


def _chosen(frames: Iterable[Frame], looking: Looking, *, live: bool) -> Iterator[Frame]:
    due = 0.0
    for position, frame in enumerate(frames):
        if position % looking.every:
            continue
        if live and looking.fps_max is not None:
            if frame.captured < due:
                continue
            # counted from when it was due, so that frames a little early or late do not lower the rate
            late = frame.captured - due >= 1 / looking.fps_max
            due = (frame.captured if late else due) + 1 / looking.fps_max
        yield frame if looking.roi is None else replace(frame, image=looking.roi.cut(frame.image))


def _hand(frames: Iterable[Frame], to: Handover[Frame]) -> None:
    for frame in frames:
        if not to.put(frame):
            return


def _started(name: str, target: Handover[_T], work: Callable[[], None]) -> threading.Thread:
    """Do the work in a thread; whoever takes from the target hears of its end, and of its error."""

    def run() -> None:
        try:
            work()
        except BaseException as error:  # the thread that takes raises it
            target.end(error)
        else:
            target.end()

    thread = threading.Thread(target=run, name=f"deepir {name}", daemon=True)
    thread.start()
    return thread
