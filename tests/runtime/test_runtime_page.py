"""The live page's addresses, asked by a plain HTTP client: who may ask, what is told, what is changed."""

import gc
import http.client
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.errors import InputError, OptionError
from deepir.image import Image, decode_image
from deepir.runtime import Recogniser
from deepir.runtime.boxes import Part
from deepir.runtime.camera import Camera
from deepir.runtime.camera_state import Patience, Trouble
from deepir.runtime.frame import Frame
from deepir.runtime.index import Index
from deepir.runtime.page import Page
from deepir.runtime.page_address import PageAddress
from deepir.runtime.pictures import thumbnails_of
from deepir.runtime.recording import ImageFiles
from deepir.runtime.result import Result
from deepir.runtime.vitals import Vitals

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

HERE = PageAddress("127.0.0.1", 0)
WAIT = 60
"""Seconds that a machine may need for what takes a moment."""


@pytest.fixture
def recogniser(shop: Path) -> Iterator[Recogniser]:
    with Recogniser.open(shop) as opened:
        yield opened


@pytest.fixture
def vitals(recogniser: Recogniser) -> Vitals:
    return Vitals(recogniser, ImageFiles([], "pictures"))


@pytest.fixture
def page(vitals: Vitals, shop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.delenv("DEEPIR_PAGE_TOKEN", raising=False)
    with Page(vitals, shop, HERE).start() as started:
        yield started


Show = Callable[..., None]


@pytest.fixture
def show(vitals: Vitals, recogniser: Recogniser, picture: Callable[..., Image], rng: np.random.Generator) -> Show:
    def shown(number: int, colour: str = "red", parts: tuple[Part | None, ...] = (None,)) -> None:
        frame = Frame(number, picture(colour, rng), time.monotonic(), None, "camera")
        for part in parts:
            query = recogniser.describe(frame.image)
            answer = recogniser.answer(query)
            vitals.note(Result(frame, answer, 0.01, recogniser.index, query.query_1d, None, part))

    return shown


def port_of(page: Page) -> int:
    return int(page.url.split(":")[2].split("/")[0])


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(page: Page, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", port_of(page), timeout=WAIT)) as connection:
        connection.request(method, path, body, given)
        return Answer(connection.getresponse())


def post(page: Page, path: str, what: Any, **headers: str) -> Answer:
    return get(page, path, "POST", json.dumps(what), **{"content_type": "application/json", **headers})


def stream_of(page: Page, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(page), timeout=WAIT)
    connection.request("GET", path)
    return connection, connection.getresponse()


def until(happened: Callable[[], object]) -> None:
    """Ask again and again: for what a thread of the page does in its own time."""
    end = time.monotonic() + WAIT
    while not happened():
        assert time.monotonic() < end


def next_event(response: http.client.HTTPResponse) -> Any:
    while not (line := response.readline()).startswith(b"data: "):
        assert line
    return json.loads(line[6:])


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("8080", "127.0.0.1", 8080, True),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),
        ("[::]:8080", "::", 8080, False),
        ("[::1]:0", "::1", 0, True),
        ("127.0.0.1:0", "127.0.0.1", 0, True),
        ("localhost:9000", "127.0.0.1", 9000, True),
    ],
)
def test_addresses_are_ports_or_addresses_with_ports(text: str, host: str, port: int, loopback: bool) -> None:
    address = PageAddress.parse(text)
    assert (address.host, address.port, address.loopback) == (host, port, loopback)


@pytest.mark.parametrize(
    "text", ["", "page", "70000", "-1", "::1:80", "1.2.3:80", "[::]", "http://localhost:80", "a:b:1"]
)
def test_nonsense_is_refused_with_examples(text: str) -> None:
    with pytest.raises(OptionError, match=r"8080, 0\.0\.0\.0:8080"):
        PageAddress.parse(text)


def test_a_port_that_is_taken_is_named_with_the_cure(page: Page, vitals: Vitals, shop: Path) -> None:
    taken = PageAddress("127.0.0.1", port_of(page))
    with pytest.raises(InputError, match=f"port {taken.port} .* give another"):
        Page(vitals, shop, taken).start()


def test_the_page_and_its_parts_are_there_with_headers_that_keep_scripts_out(page: Page) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg"),
    ):
        answer = get(page, path)
        assert (answer.status, answer.headers["content-type"].startswith(kind)) == (200, True)
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_before_the_first_answer_there_is_a_state_and_no_picture(page: Page) -> None:
    assert get(page, "/state.json").json["frame"] is None
    answer = get(page, "/picture.jpg")
    assert (answer.status, "error" in answer.json) == (404, True)
    assert get(page, "/healthz").json == {"status": "starting"}


def test_the_newest_frame_is_a_picture_with_its_answer_and_candidates(page: Page, show: Show) -> None:
    show(5, "blue")
    picture = decode_image(get(page, "/picture.jpg").body, "picture")
    assert picture.shape == (48, 64, 3)
    assert int(np.argmax(picture.mean(axis=(0, 1)))) == 2
    frame = get(page, "/state.json").json["frame"]
    assert (frame["number"], frame["answers"][0]["label"]) == (5, "blue")
    found = get(page, "/candidates.json").json["candidates"]
    assert (found[0]["label"], found[0]["picture"]) == ("blue", True)
    similarities = [one["similarity"] for one in found]
    assert similarities == sorted(similarities, reverse=True)
    assert decode_image(get(page, f"/thumbnail/{found[0]['key']}.jpg").body, "thumbnail").shape == (48, 64, 3)


def test_a_picture_that_is_gone_is_not_found(page: Page, show: Show, catalogue: Path) -> None:
    show(0)
    (first, *_) = get(page, "/candidates.json").json["candidates"]
    for file in (catalogue / "red").iterdir():
        file.unlink()
    assert get(page, f"/thumbnail/{first['key']}.jpg").status == 404
    assert get(page, "/candidates.json").json["candidates"][0]["picture"] is False
    assert get(page, "/thumbnail/999.jpg").status == 404
    assert get(page, f"/thumbnail/{'9' * 5000}.jpg").status == 400


def test_events_bring_each_newer_answer(page: Page, show: Show) -> None:
    show(0, "red")
    connection, response = stream_of(page, "/events")
    with closing(connection):
        assert next_event(response)["frame"]["answers"][0]["label"] == "red"
        show(1, "green")
        while (event := next_event(response))["frame"]["number"] == 0:
            pass
        assert event["frame"]["answers"][0]["label"] == "green"
        assert event["report"]["results"] == 2


def test_events_come_also_without_answers_and_tell_of_a_lost_camera(recogniser: Recogniser, shop: Path) -> None:
    trouble = Trouble("refused", "nobody listens there")
    with Camera(lambda: trouble, "rtsp://camera", Patience(on_lost="wait")) as camera:
        assert camera.wait_for("lost", WAIT)
        with Page(Vitals(recogniser, camera), shop, HERE).start() as page:
            connection, response = stream_of(page, "/events")
            with closing(connection):
                for _ in range(2):
                    assert next_event(response)["report"]["source"]["trouble"]["kind"] == "refused"
            assert get(page, "/healthz").status == 503


def test_the_stream_is_a_row_of_jpegs(page: Page, show: Show) -> None:
    show(0)
    connection, response = stream_of(page, "/stream.mjpg")
    with closing(connection):
        for number in (1, 2):
            assert response.readline() == b"--deepir-frame\r\n"
            size = 0
            while (line := response.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                size = int(value) if name == b"Content-Length" else size
            assert decode_image(response.read(size), "part").shape == (48, 64, 3)
            assert response.readline() == b"\r\n"
            show(number)


def test_the_page_ends_though_browsers_listen(vitals: Vitals, shop: Path, show: Show) -> None:
    show(0)
    page = Page(vitals, shop, HERE).start()
    streams = [stream_of(page, path) for path in ("/events", "/stream.mjpg")]
    page.close()
    for connection, response in streams:
        with closing(connection):
            response.read()
    # close() lets a page that is slow to end be
    for thread in (one for one in threading.enumerate() if one.name == "deepir page"):
        thread.join(WAIT)
    assert not any(thread.name == "deepir page" for thread in threading.enumerate())


def test_the_threshold_changes_at_once_and_goes_back_to_the_index(page: Page, recogniser: Recogniser) -> None:
    before = recogniser.threshold
    assert post(page, "/threshold", {"value": 0.61}).json == {"threshold": 0.61, "auto": False, "kept": False}
    assert recogniser.judgement.threshold == 0.61
    assert post(page, "/threshold", {"value": "auto"}).json["threshold"] == before


def test_a_threshold_that_is_kept_stays_in_the_file_when_views_are_added(page: Page, show: Show, shop: Path) -> None:
    show(0)
    assert post(page, "/threshold", {"value": 0.5, "keep": True}).json["kept"] is True
    get(page, "/state.json")
    assert post(page, "/enrol", {"label": "new", "frame": 0}).status == 200
    threshold = Index.open(shop).threshold
    assert threshold is not None
    assert (threshold.value, threshold.basis) == (0.5, "chosen")


@pytest.mark.parametrize("value", [1.5, "high", None, True, "NaN", float("nan"), 10**400])
def test_a_threshold_that_is_none_is_refused_and_changes_nothing(
    page: Page, recogniser: Recogniser, value: Any
) -> None:
    answer = post(page, "/threshold", {"value": value})
    assert (answer.status, "threshold" in answer.json["error"]) == (400, True)
    assert recogniser.judgement.threshold == "auto"


def test_enrolling_stores_the_answer_that_was_shown_and_not_a_later_one(page: Page, show: Show, shop: Path) -> None:
    show(0, "red")
    get(page, "/state.json")
    show(1, "blue")
    done = post(page, "/enrol", {"label": "cup/small", "frame": 0})
    assert (done.status, done.json["views"]) == (200, 1)
    index = Index.open(shop)
    (item,) = index.views_of("cup/small")
    assert item.key == done.json["key"]
    descriptor_1d = index.descriptors([item.key])[0]
    similarity = {
        label: float(index.descriptors(keys)[0] @ descriptor_1d) for label, keys in index.keys_by_label().items()
    }
    assert similarity["red"] > 0.99 > similarity["blue"]
    assert (thumbnails_of(shop) / item.metadata["thumbnail"]).is_file()


def test_of_a_box_the_thumbnail_shows_the_box(page: Page, show: Show, shop: Path) -> None:
    show(0, "red", (Part((0, 0, 10, 10)), Part((20, 10, 60, 40))))
    assert len(get(page, "/state.json").json["frame"]["answers"]) == 2
    assert post(page, "/enrol", {"label": "cup", "frame": 0, "part": 1}).status == 200
    (item,) = Index.open(shop).views_of("cup")
    kept = (thumbnails_of(shop) / item.metadata["thumbnail"]).read_bytes()
    assert decode_image(kept, "kept").shape == (30, 40, 3)


def test_a_frame_that_is_gone_is_refused_and_one_that_is_held_is_not(page: Page, show: Show) -> None:
    for number in range(52):
        show(number)
        get(page, "/state.json")
        if number == 0:
            assert post(page, "/hold", {"frame": 0}).json == {"frame": 0}
    answer = post(page, "/enrol", {"label": "cup", "frame": 1})
    assert (answer.status, "too long ago" in answer.json["error"]) == (410, True)
    assert post(page, "/enrol", {"label": "cup", "frame": 0}).status == 200


def test_a_frame_of_an_earlier_run_is_refused_though_this_one_has_one_of_that_number(
    page: Page, show: Show, shop: Path
) -> None:
    show(0)
    started = get(page, "/state.json").json["report"]["started"]
    for path, what in (("/hold", {"frame": 0}), ("/enrol", {"frame": 0, "label": "cup"})):
        answer = post(page, path, {**what, "started": started - 1})
        assert (answer.status, "started again" in answer.json["error"]) == (410, True)
    assert get(page, f"/candidates.json?frame=0&started={started - 1}").status == 410
    assert len(Index.open(shop)) == 12
    assert get(page, f"/candidates.json?frame=0&started={started:.5f}").status == 200
    assert post(page, "/hold", {"frame": 0, "started": started}).status == 200
    assert post(page, "/enrol", {"frame": 0, "label": "cup", "started": started}).status == 200


@pytest.mark.parametrize("label", ["", " ", "a//b", "/a", "../a", "a\nb", 5, None, "x" * 201])
def test_what_is_no_label_is_refused(page: Page, show: Show, shop: Path, label: Any) -> None:
    show(0)
    get(page, "/state.json")
    answer = post(page, "/enrol", {"label": label, "frame": 0})
    assert (answer.status, "label" in answer.json["error"]) == (400, True)
    assert len(Index.open(shop)) == 12


def test_only_what_was_enrolled_here_can_be_undone_and_once(page: Page, show: Show, shop: Path) -> None:
    show(0)
    get(page, "/state.json")
    key = post(page, "/enrol", {"label": "cup", "frame": 0}).json["key"]
    assert post(page, "/undo", {"key": 1}).status == 400
    assert post(page, "/undo", {"key": key}).status == 200
    assert post(page, "/undo", {"key": key}).status == 400
    assert len(Index.open(shop)) == 12


def test_an_index_that_was_replaced_does_not_stay_in_memory_because_it_was_looked_at(
    page: Page, show: Show, recogniser: Recogniser, shop: Path
) -> None:
    show(0)
    get(page, "/candidates.json")
    until(lambda: get(page, "/calibration.json").json["status"] == "ready")
    before = weakref.ref(recogniser.index)
    recogniser.index = Index.open(shop)
    show(1)
    # threads of the page, which computed the curve or answered, may hold it a moment longer
    until(lambda: gc.collect() >= 0 and before() is None)
    assert get(page, "/candidates.json?frame=0").json["candidates"][0]["label"] == "red"


def test_an_event_tells_whether_another_index_answers_though_it_has_as_many_labels(
    page: Page, recogniser: Recogniser, shop: Path
) -> None:
    first, again = (get(page, "/state.json").json for _ in range(2))
    with Index.open(shop, write=True) as index:
        index.relabel("green", "lime")
    recogniser.index = Index.open(shop)
    other = get(page, "/state.json").json
    assert first["index_generation"] == again["index_generation"] != other["index_generation"]
    assert first["report"]["index"]["labels"] == other["report"]["index"]["labels"]


def test_of_another_index_a_stored_picture_is_read_again(
    page: Page, show: Show, recogniser: Recogniser, shop: Path, catalogue: Path, write_picture: Callable[..., Path]
) -> None:
    show(0, "red")
    key = get(page, "/candidates.json").json["candidates"][0]["key"]
    sizes = [decode_image(get(page, f"/thumbnail/{key}.jpg").body, "before").shape]
    for file in (catalogue / "red").iterdir():
        write_picture(file, np.zeros((30, 30, 3), np.uint8))
    recogniser.index = Index.open(shop)
    sizes.append(decode_image(get(page, f"/thumbnail/{key}.jpg").body, "after").shape)
    assert sizes == [(48, 64, 3), (30, 30, 3)]


def test_beside_a_picture_stands_what_was_enrolled_from_it(
    page: Page, show: Show, recogniser: Recogniser, shop: Path
) -> None:
    show(0)
    get(page, "/state.json")
    key = post(page, "/enrol", {"label": "cup", "frame": 0}).json["key"]
    recogniser.index = Index.open(shop)
    found = get(page, "/candidates.json?frame=0").json["candidates"]
    assert (found[0]["key"], found[0]["similarity"]) == (key, pytest.approx(1, abs=1e-2))


def test_what_fails_in_a_way_nobody_thought_of_is_told_as_json(
    page: Page, vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(vitals, "recogniser")
    answer = get(page, "/labels.json")
    assert (answer.status, "log" in answer.json["error"]) == (500, True)
    assert "content-security-policy" in answer.headers


def test_while_another_program_changes_the_index_enrolling_waits_and_says_so(
    page: Page, show: Show, shop: Path
) -> None:
    show(0)
    get(page, "/state.json")
    with Index.open(shop, write=True):
        answer = post(page, "/enrol", {"label": "cup", "frame": 0})
    assert (answer.status, "error" in answer.json) == (409, True)


def test_the_curve_falls_from_all_to_none(page: Page) -> None:
    until(lambda: get(page, "/calibration.json").json["status"] == "ready")
    curve = get(page, "/calibration.json").json
    shares = np.array([point[1] for point in curve["points"]])
    assert (shares[0], shares[-1]) == (1.0, 0.0)
    assert (np.diff(shares) <= 0).all()
    assert curve["own"] == 12


def test_the_metrics_are_on_the_same_port(page: Page, show: Show) -> None:
    show(0)
    answer = get(page, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'deepir_results_total{status="match"} 1.0' in answer.body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "192.168.1.1"])
def test_names_that_point_here_are_refused(page: Page, host: str) -> None:
    answer = get(page, "/state.json", Host=host)
    assert (answer.status, "error" in answer.json) in {(403, True), (400, True)}


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:80", "127.8.0.1"])
def test_this_machine_may_be_called_by_its_own_names(page: Page, host: str) -> None:
    assert get(page, "/state.json", Host=host).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
def test_only_the_page_itself_may_change_something(
    page: Page, recogniser: Recogniser, headers: dict[str, str], status: int
) -> None:
    assert post(page, "/threshold", {"value": 0.5}, **headers).status == status
    assert (recogniser.judgement.threshold == 0.5) == (status == 200)


@pytest.mark.parametrize("body", ["", "[]", "{", "5", "[" * 5000])
def test_what_is_no_json_object_is_refused(page: Page, body: str) -> None:
    answer = get(page, "/enrol", "POST", body, content_type="application/json")
    assert (answer.status, "error" in answer.json) == (400, True)


def test_too_long_a_request_is_refused(page: Page) -> None:
    assert post(page, "/enrol", {"label": "x" * 100_000}).status == 413


@pytest.fixture
def guarded(vitals: Vitals, shop: Path) -> Iterator[Page]:
    with Page(vitals, shop, PageAddress("0.0.0.0", 0), "pässword & more").start() as started:
        yield started


def test_without_the_token_only_the_form_for_it_and_the_health_are_told(guarded: Page, show: Show) -> None:
    show(0)
    for path in ("/state.json", "/metrics", "/events", "/picture.jpg", "/stream.mjpg", "/?token=wrong"):
        assert get(guarded, path).status == 401
    assert post(guarded, "/threshold", {"value": 0.5}).status == 401
    assert get(guarded, "/healthz").status == 200
    assert get(guarded, "/page.js").status == 200


def test_with_the_token_the_browser_gets_a_cookie_that_scripts_do_not_see(guarded: Page) -> None:
    path = guarded.url.partition(str(port_of(guarded)))[2]
    answer = get(guarded, path, Host="robot.lan:8080")
    cookie, *flags = answer.headers["set-cookie"].split("; ")
    assert (answer.status, set(flags)) == (200, {"Path=/", "HttpOnly", "SameSite=Strict"})
    assert "word" not in cookie
    assert get(guarded, "/state.json", Cookie=cookie).status == 200
    assert get(guarded, "/state.json", Cookie=cookie[:-1]).status == 401


def test_prometheus_shows_the_token_as_a_bearer(vitals: Vitals, shop: Path) -> None:
    with Page(vitals, shop, HERE, "secret").start() as page:
        assert get(page, "/metrics", Authorization="Bearer secret").status == 200
        assert get(page, "/metrics?token=secret").status == 200
        assert get(page, "/metrics", Authorization="Bearer other").status == 401


def test_opened_wider_the_page_makes_a_token_of_its_own_or_takes_the_environments(
    vitals: Vitals, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPIR_PAGE_TOKEN", raising=False)
    wide = PageAddress("0.0.0.0", 8080)
    urls = {Page(vitals, shop, wide).url for _ in range(2)}
    assert len(urls) == 2
    assert all(len(url.partition("?token=")[2]) >= 20 for url in urls)
    assert "token" not in Page(vitals, shop, HERE).url
    monkeypatch.setenv("DEEPIR_PAGE_TOKEN", "from outside")
    assert Page(vitals, shop, wide).url.endswith("?token=from%20outside")
    monkeypatch.setenv("DEEPIR_PAGE_TOKEN", "")
    with pytest.raises(OptionError, match="empty"):
        Page(vitals, shop, wide)
