"""Source to recognitions: the loop behind deepir-run."""

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepir.errors import OptionError
from deepir.files import check_apart
from deepir.runtime.annotate import check_video_path
from deepir.runtime.answering import Answering, Outputs
from deepir.runtime.backend import BackendOptions
from deepir.runtime.boxes import Parts
from deepir.runtime.camera_state import Patience
from deepir.runtime.decide import Deciding
from deepir.runtime.frame import Source
from deepir.runtime.health_file import MOST_STUCK, HealthFile
from deepir.runtime.index import Index
from deepir.runtime.index_watch import Hangup, IndexWatch, file_state
from deepir.runtime.lines import Lines, LinesFile
from deepir.runtime.model_file import ModelFile
from deepir.runtime.notify import Notifier
from deepir.runtime.page import Page
from deepir.runtime.page_address import PageAddress
from deepir.runtime.pipeline import Looking, Pipeline
from deepir.runtime.progress import StatusLine, say
from deepir.runtime.recogniser import Judgement, Recogniser
from deepir.runtime.roi import Roi
from deepir.runtime.run_report import NO_THRESHOLD, CameraNews, introduce, status_text, summary
from deepir.runtime.sink import Sink
from deepir.runtime.sink_news import SinkNews
from deepir.runtime.sinks import SinkOptions, open_sinks
from deepir.runtime.source import open_source
from deepir.runtime.stop import Stop
from deepir.runtime.video_sink import VideoSink
from deepir.runtime.vitals import Vitals

_MOST_VIDEO_FPS = 30.0

_BEAT = 0.2
"""Seconds after which the loop looks around when no frame comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What deepir-run was asked for; checked when it is made."""

    source: str
    index_path: Path
    model: Path | None = None
    judgement: Judgement = field(default_factory=Judgement)
    deciding: Deciding = field(default_factory=Deciding)
    backend: BackendOptions = field(default_factory=BackendOptions)
    every: int = 1
    fps_max: float | None = None
    max_frames: int | None = None
    roi: Roi | None = None
    boxes: Path | None = None
    save: Path | None = None
    jsonl: Path | None = None
    events: bool = False
    quiet: bool = False
    patience: Patience = field(default_factory=Patience)
    sinks: SinkOptions = field(default_factory=SinkOptions)
    health_file: Path | None = None
    page: PageAddress | None = None

    def __post_init__(self) -> None:
        for option, count in (("--every", self.every), ("--max-frames", self.max_frames)):
            if count is not None and count < 1:
                message = f"{option} must be 1 or more, got {count}"
                raise OptionError(message)
        if self.fps_max is not None and not self.fps_max > 0:
            message = f"--fps-max must be above 0, got {self.fps_max}"
            raise OptionError(message)
        if self.boxes is not None and (self.roi is not None or self.deciding.mode == "place"):
            message = "--boxes are parts of whole frames that show things: leave out --roi and --mode place"
            raise OptionError(message)
        if self.save is not None:
            check_video_path(self.save)
        read = {"the SOURCE": Path(self.source), "the index": self.index_path, "the model": self.model}
        written = {"--save": self.save, "--jsonl": self.jsonl, "--health-file": self.health_file}
        check_apart(written, {**read, "--boxes": self.boxes})


def run(options: RunOptions) -> None:
    """Recognise every chosen frame of the source; the errors are those of its parts.

    Reading, preparing and the model overlap (see `Pipeline`); search and decision run here. SIGTERM ends it like the
    end of a file, Ctrl-C with the answer in hand and then KeyboardInterrupt. An index or model that another program
    changes is read again in the background, the index at SIGHUP in any case, and no frame is missed.
    """
    with contextlib.ExitStack() as stack:
        stop, hangup = stack.enter_context(Stop()), stack.enter_context(Hangup())
        seen = file_state(options.index_path)
        index = Index.open(options.index_path)
        model = ModelFile(options.index_path, options.model, options.backend)
        recogniser = stack.enter_context(Recogniser(model.open(index), index, options.judgement))
        parts = _read_boxes(options)
        source = stack.enter_context(open_source(options.source, options.patience))
        health = None if options.health_file is None else HealthFile(options.health_file)
        sinks, sink_news = stack.enter_context(_open_sinks(options))
        vitals = Vitals(recogniser, source, sinks)
        page = None if options.page is None else stack.enter_context(Page(vitals, options.index_path, options.page))
        outputs = stack.enter_context(_open_outputs(options, vitals))
        _introduce(vitals, page, options)
        answering = Answering(recogniser, options.deciding, outputs, live=source.live)
        watch = IndexWatch(options.index_path, model, seen=seen, make_ready=answering.learn).start()
        stack.enter_context(watch)
        hangup.tell(watch)
        looking = Looking(every=options.every, fps_max=options.fps_max, roi=options.roi, parts=parts)
        pipeline = stack.enter_context(Pipeline(recogniser, source, looking))
        around = _Around(options, outputs, watch, health, sink_news)
        stack.callback(around.end)
        _loop(pipeline, answering, around, stop)
        if parts is not None and parts.frames and not parts.used:
            say(f"warning: none of the {parts.frames} frames that {parts.path} names came")
        if parts is not None and parts.beside:
            say(f"warning: {parts.beside} boxes of {parts.path} lay beside their pictures and were left out")
    if stop.interrupted:
        raise KeyboardInterrupt


def _introduce(vitals: Vitals, page: Page | None, options: RunOptions) -> None:
    if vitals.recogniser.threshold is None:
        say(NO_THRESHOLD)
    if not options.quiet:
        introduce(vitals.recogniser, vitals.source, options.index_path)
    if page is not None:
        page.start()
        # also with --quiet: nobody could guess the token, or the port that 0 took
        say(f"page    {page.url}")


def _loop(pipeline: Pipeline, answering: Answering, around: "_Around", stop: Stop) -> None:
    left = around.options.max_frames
    stop.looping()
    around.begin()
    while not (pipeline.over or stop.asked or left == 0):
        around.look(pipeline)
        looked = pipeline.take(_BEAT)
        if looked is not None:
            answering(looked)
            left = None if left is None else left - 1


class _Around:
    """What the loop does besides answering: take what is fresh, tell how it is."""

    def __init__(
        self,
        options: RunOptions,
        outputs: Outputs,
        watch: IndexWatch,
        health: HealthFile | None,
        sink_news: SinkNews,
    ) -> None:
        self.options = options
        self._vitals = outputs.vitals
        self._watch = watch
        self._health = health
        self._notifier = Notifier()
        self._status = StatusLine(quiet=options.quiet)
        lines = outputs.lines if options.events else None
        self._news = CameraNews(outputs.vitals.source, outputs.vitals.sinks, lines, quiet=options.quiet)
        self._sink_news = sink_news

    def begin(self) -> None:
        """All is open."""
        self._notifier.ready()

    def look(self, pipeline: Pipeline) -> None:
        """Once in a while, and between two frames."""
        self._take_fresh(pipeline)
        stuck = pipeline.stuck
        self._vitals.beat(stuck)
        self._news.look()
        self._sink_news.look()
        if self._health is not None:
            self._health.beat(self._vitals)
        self._notifier.beat(self._text, well=stuck <= MOST_STUCK)
        if self._status.due:
            self._status.show(self._text())

    def end(self) -> None:
        """Nothing more is answered."""
        self._notifier.stopping()
        # a camera whose loss ends the program is lost between two looks
        self._news.look()
        if self._health is not None:
            self._health.end(self._vitals)
        self._status.end()

    def _text(self) -> str:
        return status_text(self._vitals)

    def _take_fresh(self, pipeline: Pipeline) -> None:
        fresh, trouble = self._watch.take(), self._watch.take_trouble()
        if trouble:
            say(f"warning: the index and model before go on answering: {trouble}")
        if fresh is None:
            return
        pipeline.replace(fresh.index, fresh.extractor)
        if not self.options.quiet:
            items, labels = len(fresh.index), len(fresh.index.labels)
            model = "" if fresh.extractor is None else f", model {fresh.extractor.backend.name}"
            say(f"index   read again: {items} items, {labels} labels{model}")


def _read_boxes(options: RunOptions) -> Parts | None:
    if options.boxes is None:
        return None
    parts = Parts(options.boxes)
    if options.deciding.vote is not None and not parts.tracked:
        message = (
            f"--vote {options.deciding.vote} needs a tracker_id with each box, and {options.boxes} has boxes without"
        )
        raise OptionError(message)
    return parts


@contextlib.contextmanager
def _open_sinks(options: RunOptions) -> Iterator[tuple[Sequence[Sink], SinkNews]]:
    news = None
    try:
        with open_sinks(options.sinks) as sinks:
            news = SinkNews(sinks, quiet=options.quiet)
            yield sinks, news
    finally:
        # what still waited at the end is known when all are closed
        if news is not None:
            news.end()


@contextlib.contextmanager
def _open_outputs(options: RunOptions, vitals: Vitals) -> Iterator[Outputs]:
    source = vitals.source
    fps = _video_fps(source, options)
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_open_lines(options.jsonl, live=source.live))
        video = VideoSink(options.save, fps, live=source.live) if options.save else None
        stack.callback(_conclude, vitals, options, video)
        if video is not None:
            stack.enter_context(video)
        yield Outputs(lines=lines, vitals=vitals, video=video)


def _video_fps(source: Source, options: RunOptions) -> float | None:
    fps = source.fps / options.every if source.fps else None
    return min(fps or math.inf, options.fps_max or math.inf, _MOST_VIDEO_FPS) if source.live else fps


def _open_lines(path: Path | None, *, live: bool) -> contextlib.AbstractContextManager[Lines]:
    # answers of a camera come once, and a service is started again
    return contextlib.nullcontext(sys.stdout) if path is None else LinesFile(path, add=live)


def _conclude(vitals: Vitals, options: RunOptions, video: VideoSink | None) -> None:
    if options.quiet:
        return
    say(summary(vitals))
    if video is not None and video.saved:
        say(f"wrote {options.save}")
