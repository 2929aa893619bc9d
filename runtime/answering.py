"""Descriptors become answers: searched, decided, and told to whoever is to hear of them, in the loop's own thread."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from deepir.runtime.boxes import Part
from deepir.runtime.decide import Decider, Deciding
from deepir.runtime.index import Index
from deepir.runtime.lines import Lines
from deepir.runtime.pipeline import Looked
from deepir.runtime.recogniser import Recogniser
from deepir.runtime.result import Result
from deepir.runtime.run_report import write_line
from deepir.runtime.video_sink import VideoSink
from deepir.runtime.vitals import Vitals

_MOST_TRACKED = 256
"""Things whose last frames are remembered for a vote; more are in no picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Who hears of an answer, in this order, besides the sinks of `vitals`."""

    lines: Lines
    vitals: Vitals
    video: VideoSink | None = None


class Answering:
    """Takes the frames of a source one after another; not from two threads at once.

    Args:
        recogniser: Judges.
        deciding: Which frames decide together; with boxes, those of one thing that a tracker follows.
        live: Whether the source is.
        outputs: Who hears of it.
    """

    def __init__(self, recogniser: Recogniser, deciding: Deciding, outputs: Outputs, *, live: bool) -> None:
        self._recogniser = recogniser
        self._deciding = deciding
        self._live = live
        self._outputs = outputs
        self._whole = Decider(recogniser, deciding, live=live)
        self._tracked: OrderedDict[int, Decider] = OrderedDict()

    def __call__(self, looked: Looked) -> list[Result]:
        """The answers to a frame, one for each part that was looked at, told to all."""
        results = []
        for part, query in zip(looked.parts, looked.queries, strict=True):
            recognition, decision = self._decider(part)(looked.frame, query, looked.index)
            age = time.monotonic() - looked.frame.captured
            result = Result(looked.frame, recognition, age, looked.index, query.query_1d, decision, part)
            write_line(result.record(), self._outputs.lines)
            self._outputs.vitals.note(result)
            for sink in self._outputs.vitals.sinks:
                sink.take(result)
            results.append(result)
        if self._outputs.video is not None:
            self._outputs.video.write(looked.frame, results)
        return results

    def learn(self, index: Index) -> None:
        """Make ready to answer from another index; see `Decider.learn`.

        Raises:
            ShapeError, OptionError: It is no map that places could be looked for in.
        """
        self._whole.learn(index)

    def _decider(self, part: Part | None) -> Decider:
        if part is None or part.tracker is None:
            return self._whole
        decider = self._tracked.get(part.tracker)
        if decider is None:
            decider = self._tracked[part.tracker] = Decider(self._recogniser, self._deciding, live=self._live)
        self._tracked.move_to_end(part.tracker)
        if len(self._tracked) > _MOST_TRACKED:
            self._tracked.popitem(last=False)
        return decider
