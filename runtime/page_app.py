"""The addresses of the live page, and what each gives."""

import json
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepir.errors import DeepIRError, IndexBusyError, IndexFileError, InputError
from deepir.image import read_image
from deepir.optional import need
from deepir.runtime.health_file import status_of
from deepir.runtime.metrics import CONTENT_TYPE, Metrics
from deepir.runtime.page_curve import CurveOfIndex
from deepir.runtime.page_desk import Desk
from deepir.runtime.page_feed import BOUNDARY, Feed
from deepir.runtime.page_generation import Generations
from deepir.runtime.page_guard import LOCKED
from deepir.runtime.page_shown import Showcase, Shown
from deepir.runtime.pictures import encode_thumbnail, find_pictures
from deepir.runtime.vitals import Vitals

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

_LONGEST_BODY = 16384
_MOST_LABELS = 2000
_THUMBNAIL = 192
_THUMBNAILS_KEPT = 128
_WELL = frozenset({"starting", "running"})

ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#17803f"/>'
    b'<path d="M9 16.5l5 5 9.5-11" fill="none" stroke="#fff" stroke-width="3.6" stroke-linecap="round" '
    b'stroke-linejoin="round"/></svg>'
)

_Work = Callable[[dict[str, Any]], dict[str, Any]]


class PageApp:
    """Answers requests about one loop; `asgi` is what a server runs.

    Args:
        vitals: Of the loop.
        index_path: The file of its index.
    """

    def __init__(self, vitals: Vitals, index_path: Path) -> None:
        self._vitals = vitals
        self._path = index_path
        self._showcase = Showcase(vitals)
        self._desk = Desk(vitals, index_path)
        self._curve = CurveOfIndex()
        self._metrics = Metrics(vitals)
        self._generations = Generations()
        self._thumbnails = _Thumbnails()
        self.feed = Feed(vitals, self._showcase, self._facts)

    def asgi(self) -> "ASGIApp":
        """The application, without its guard."""
        route = need("starlette.routing").Route
        got: dict[str, Callable[..., Any]] = {
            "/": self._page,
            "/page.css": lambda _request: _file("page.css", "text/css"),
            "/page.js": lambda _request: _file("page.js", "text/javascript"),
            "/icon.svg": lambda _request: _response(ICON, "image/svg+xml"),
            "/picture.jpg": self._picture,
            "/stream.mjpg": self._stream,
            "/events": self._events,
            "/state.json": lambda _request: _response(self.feed.state(), "application/json"),
            "/labels.json": lambda _request: _json(
                {"labels": list(self._vitals.recogniser.index.labels)[:_MOST_LABELS]}
            ),
            "/candidates.json": self._candidates,
            "/thumbnail/{key}.jpg": self._thumbnail,
            "/calibration.json": lambda _request: _json(self._curve.of(self._vitals.recogniser.index)),
            "/healthz": self._health,
            "/metrics": lambda _request: _response(self._metrics.text(), CONTENT_TYPE),
        }
        posted: dict[str, _Work] = {
            "/threshold": lambda asked: self._desk.set_threshold(asked.get("value"), keep=asked.get("keep") is True),
            "/hold": self._hold,
            "/enrol": self._enrol,
            "/undo": lambda asked: self._desk.undo(asked.get("key")),
        }
        routes = [route(path, _told(work), methods=["GET"]) for path, work in got.items()]
        routes += [route(path, _changing(work), methods=["POST"]) for path, work in posted.items()]
        handlers = {need("starlette.exceptions").HTTPException: _plain_error, DeepIRError: _error, Exception: _broken}
        app: ASGIApp = need("starlette.applications").Starlette(routes=routes, exception_handlers=handlers)
        return app

    def _facts(self) -> dict[str, Any]:
        recogniser = self._vitals.recogniser
        stored = recogniser.index.threshold
        return {
            "index_file": self._path.name,
            "index_generation": self._generations.of(recogniser.index),
            "threshold_auto": recogniser.judgement.threshold == "auto",
            "threshold_stored": None if stored is None else stored.value,
            "enrol_closed": self._desk.closed(),
        }

    def _page(self, request: "Request") -> "Response":
        return _file("page.html", "text/html", 401 if request.scope.get(LOCKED) else 200)

    def _picture(self, request: "Request") -> "Response":
        shown = self._asked(request.query_params.get("frame"))
        return _response(shown.picture, "image/jpeg")

    def _stream(self, _request: "Request") -> "Response":
        return _streaming(self.feed.pictures(), f"multipart/x-mixed-replace; boundary={BOUNDARY}")

    def _events(self, _request: "Request") -> "Response":
        return _streaming(self.feed.events(), "text/event-stream")

    def _candidates(self, request: "Request") -> "Response":
        asked = request.query_params
        self._check_run(asked.get("started"))
        shown = self._asked(asked.get("frame"))
        number = _part_of(shown, _whole(asked.get("part", "0")))
        return _json({"frame": shown.number, "part": number, "candidates": self._desk.candidates(shown, number)})

    def _thumbnail(self, request: "Request") -> "Response":
        key = _whole(request.path_params["key"])
        index = self._vitals.recogniser.index
        try:
            (item,) = index.items([key])
        except (InputError, OverflowError):
            return _json({"error": f"the index has no view {key}"}, 404)
        # the small copy first, unlike elsewhere: here it is shown small
        encoded = self._thumbnails.of(find_pictures(item, self._path)[::-1], self._generations.of(index))
        if encoded is None:
            return _json({"error": f"the picture of view {key} of {item.label} is gone"}, 404)
        return _response(encoded, "image/jpeg", headers={"cache-control": "private, max-age=60"})

    def _health(self, _request: "Request") -> "Response":
        status = status_of(self._vitals.report())
        return _json({"status": status}, 200 if status in _WELL else 503)

    def _hold(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._check_run(asked.get("started"))
        shown = self._showcase.hold(_whole(asked.get("frame")))
        if shown is None:
            raise _gone(asked.get("frame"))
        return {"frame": shown.number}

    def _enrol(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._check_run(asked.get("started"))
        number = _whole(asked.get("frame"))
        shown = self._showcase.of(number)
        if shown is None:
            raise _gone(number)
        return self._desk.enrol(shown, _part_of(shown, _whole(asked.get("part", 0))), asked.get("label"))

    def _check_run(self, started: object) -> None:
        """Refuse a frame of an earlier run: this one counts from 0 again, and has another of that number."""
        with suppress(ValueError):
            if started is None or float(str(started)) == self._vitals.report()["started"]:
                return
        sentence = (
            "the program was started again after this picture was shown: let the page go on, then take a newer one"
        )
        raise _refusal(410, sentence)

    def _asked(self, number: str | None) -> Shown:
        shown = self._showcase.newest() if number is None else self._showcase.of(_whole(number))
        if shown is None:
            if number is None:
                raise _refusal(404, "no frame was answered yet: try again in a moment")
            raise _gone(number)
        return shown


class _Thumbnails:
    """Small pictures of stored views, the ones asked for last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, int], bytes] = OrderedDict()

    def of(self, paths: list[Path], generation: int) -> bytes | None:
        """The first of these pictures that can be read; read again for each new index, which may have others there."""
        for path in paths:
            with self._lock:
                encoded = self._kept.get((path, generation))
            if encoded is not None:
                return encoded
            with suppress(InputError):
                encoded = encode_thumbnail(read_image(path), _THUMBNAIL)
                with self._lock:
                    self._kept[path, generation] = encoded
                    while len(self._kept) > _THUMBNAILS_KEPT:
                        self._kept.popitem(last=False)
                return encoded
        return None


def _told(work: Callable[..., "Response"]) -> "Callable[[Request], Awaitable[Response]]":
    """In a thread of its own: what is asked for may have to be encoded or searched first."""

    async def answer(request: "Request") -> "Response":
        response: Response = await need("starlette.concurrency").run_in_threadpool(work, request)
        return response

    return answer


def _changing(work: _Work) -> "Callable[[Request], Awaitable[Response]]":
    """Read the JSON that was sent, let the work be done in a thread, and give its answer as JSON."""

    async def answer(request: "Request") -> "Response":
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_BODY:
                return _json({"error": f"a request has at most {_LONGEST_BODY} bytes"}, 413)
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            return _json({"error": "send a JSON object"}, 400)
        return _json(await need("starlette.concurrency").run_in_threadpool(work, asked))

    return answer


def _error(_request: "Request", error: Exception) -> "Response":
    if isinstance(error, IndexBusyError):
        return _json({"error": str(error)}, 409)
    return _json({"error": str(error)}, 500 if isinstance(error, IndexFileError) else 400)


def _plain_error(_request: "Request", error: Exception) -> "Response":
    status = getattr(error, "status_code", 500)
    return _json({"error": str(getattr(error, "detail", error))}, status)


def _broken(_request: "Request", _error: Exception) -> "Response":
    # the server logs which, with where
    return _json({"error": "deepir-run failed at this: what it wrote to its log says why"}, 500)


def _refusal(status: int, sentence: str) -> Exception:
    refusal: Exception = need("starlette.exceptions").HTTPException(status, sentence)
    return refusal


def _gone(number: object) -> Exception:
    return _refusal(410, f"frame {number} was shown too long ago: freeze the picture first, then enrol it")


def _whole(value: object) -> int:
    with suppress(ValueError, TypeError):
        if not isinstance(value, bool | float) and -1 < (number := int(str(value))) < 1 << 62:
            return number
    raise _refusal(400, f"expected a number of 0 or more, got {value!r}")


def _part_of(shown: Shown, number: int) -> int:
    if number >= len(shown.answers):
        raise _refusal(404, f"frame {shown.number} has {len(shown.answers)} answers, there is no {number}")
    return number


def _file(name: str, kind: str, status: int = 200) -> "Response":
    return _response(files("deepir.runtime").joinpath(name).read_bytes(), f"{kind}; charset=utf-8", status)


def _json(facts: dict[str, Any], status: int = 200) -> "Response":
    return _response(json.dumps(facts).encode(), "application/json", status)


def _response(content: bytes, kind: str, status: int = 200, headers: dict[str, str] | None = None) -> "Response":
    response: Response = need("starlette.responses").Response(content, status, headers, media_type=kind)
    return response


def _streaming(chunks: Any, kind: str) -> "Response":
    # a proxy must not collect what is to be seen at once
    headers = {"x-accel-buffering": "no"}
    response: Response = need("starlette.responses").StreamingResponse(chunks, 200, headers, media_type=kind)
    return response
