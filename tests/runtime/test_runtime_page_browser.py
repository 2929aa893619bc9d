"""The live page in a real browser: what a person sees of a running loop, and what happens when they press something."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepir.image import Image
from deepir.runtime import Recogniser
from deepir.runtime.boxes import Part
from deepir.runtime.camera import Camera
from deepir.runtime.camera_state import Patience, Trouble
from deepir.runtime.frame import Frame
from deepir.runtime.index import Index
from deepir.runtime.page import Page
from deepir.runtime.page_address import PageAddress
from deepir.runtime.page_desk import Desk
from deepir.runtime.page_feed import Feed
from deepir.runtime.page_shown import Showcase, Shown
from deepir.runtime.recording import ImageFiles
from deepir.runtime.result import Result
from deepir.runtime.sink import SinkState
from deepir.runtime.vitals import Vitals

for package in ("starlette", "uvicorn", "prometheus_client", "selenium"):
    pytest.importorskip(package)

HERE = PageAddress("127.0.0.1", 0)
LONG = 60
MOVE = "const s = document.getElementById('slider'); s.value = {}; s.dispatchEvent(new Event('input'));"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests; selenium would fetch one by itself if it were not told where they are."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine (Debian: apt install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,800",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture
def recogniser(shop: Path) -> Iterator[Recogniser]:
    with Recogniser.open(shop) as opened:
        yield opened


@pytest.fixture
def vitals(recogniser: Recogniser) -> Vitals:
    return Vitals(recogniser, ImageFiles([], "pictures"))


Show = Callable[..., None]


@pytest.fixture
def show_in(
    recogniser: Recogniser, picture: Callable[..., Image], rng: np.random.Generator
) -> Callable[[Vitals], Show]:
    def show_of(vitals: Vitals) -> Show:
        def shown(number: int, colour: str = "red", parts: tuple[Part | None, ...] = (None,)) -> None:
            frame = Frame(number, picture(colour, rng), time.monotonic(), None, "camera")
            for part in parts:
                query = recogniser.describe(frame.image)
                vitals.note(Result(frame, recogniser.answer(query), 0.01, recogniser.index, query.query_1d, None, part))

        return shown

    return show_of


@pytest.fixture
def show(vitals: Vitals, show_in: Callable[[Vitals], Show]) -> Show:
    return show_in(vitals)


@pytest.fixture
def page(vitals: Vitals, shop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.delenv("DEEPIR_PAGE_TOKEN", raising=False)
    with Page(vitals, shop, HERE).start() as started:
        yield started


class Browser:
    """The page as a person has it before them."""

    def __init__(self, driver: Any, page: Page) -> None:
        self.driver = driver
        driver.get_log("browser")
        driver.get_log("performance")
        driver.get(page.url)

    def run(self, script: str, *words: Any) -> Any:
        return self.driver.execute_script(script, *words)

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    def wait(self, what: Callable[[], Any]) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, LONG, 0.05).until(lambda _driver: what())

    def press(self, name: str) -> None:
        self.run("document.getElementById(arguments[0]).click()", name)

    def shows(self, label: str) -> None:
        self.wait(lambda: self.text("label") == label)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]

    def hosts(self) -> set[str]:
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        urls = (one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent")
        return {url.split("/")[2].split(":")[0] for url in urls if not url.startswith("data:")}

    def slide(self, value: str, then: str = "") -> float:
        """Move the slider once the curve is drawn, do something in the same moment, and give what the slider shows."""
        self.wait(lambda: self.run("return document.querySelector('#plot path.own') !== null"))
        return float(self.run(MOVE.format(value) + then + "return Number(s.value)"))

    def enrol(self, label: str) -> None:
        self.wait(lambda: not self.run("return document.getElementById('enrol-button').disabled"))
        self.run("document.getElementById('new-label').value = arguments[0]", label)
        self.press("enrol-button")


@pytest.fixture
def browser(chromium: Any, page: Page) -> Iterator[Browser]:
    opened = Browser(chromium, page)
    yield opened
    chromium.get("about:blank")


def test_the_page_follows_the_answers_and_asks_nobody_else(browser: Browser, show: Show) -> None:
    show(0, "red")
    browser.shows("red")
    show(1, "blue")
    browser.shows("blue")
    browser.wait(lambda: browser.run("return document.querySelectorAll('#candidates img.thumb').length") >= 4)
    browser.wait(lambda: browser.run("return document.querySelector('#plot path.own') !== null"))
    seen = browser.run("return [...document.querySelectorAll('#history .name')].map((one) => one.textContent)")
    assert seen == ["blue", "red"]
    assert browser.errors() == []
    assert browser.hosts() == {"127.0.0.1"}


def test_a_frozen_picture_is_enrolled_though_others_were_answered_since(
    browser: Browser, show: Show, shop: Path
) -> None:
    show(0, "red")
    browser.shows("red")
    browser.press("freeze")
    browser.wait(lambda: browser.text("badge") == "frozen")
    show(1, "blue")
    browser.enrol("cup/small")
    browser.wait(lambda: "cup/small has 1 view" in browser.text("enrolled"))
    index = Index.open(shop)
    (item,) = index.views_of("cup/small")
    similarity = index.descriptors([item.key])[0] @ index.descriptors(index.keys_by_label()["red"])[0]
    assert similarity > 0.99
    browser.press("undo")
    browser.wait(lambda: browser.text("enrolled") == "Taken back.")
    assert len(Index.open(shop)) == 12
    browser.press("freeze")
    browser.shows("blue")


def test_several_views_are_taken_back_one_after_the_other(browser: Browser, show: Show, shop: Path) -> None:
    show(0, "red")
    browser.shows("red")
    for views in (1, 2):
        browser.enrol("cup")
        browser.wait(lambda views=views: f"cup has {views} view" in browser.text("enrolled"))
    # the second press comes before the first is answered, as of a finger that trembles, and takes back nothing more
    browser.run("const undo = document.getElementById('undo'); undo.click(); undo.click()")
    browser.wait(lambda: browser.text("enrolled") == "Taken back.")
    assert len(Index.open(shop)) == 13
    browser.press("undo")
    browser.wait(lambda: browser.run("return document.getElementById('undo').hidden"))
    assert len(Index.open(shop)) == 12


def test_a_button_pressed_twice_enrols_one_view(browser: Browser, show: Show, shop: Path) -> None:
    show(0, "red")
    browser.shows("red")
    browser.run("document.getElementById('new-label').value = 'cup'")
    # the next picture is drawn between the two, and must not open the button again
    browser.run("const enrol = document.getElementById('enrol-button'); enrol.click(); draw(); enrol.click()")
    browser.wait(lambda: "cup has" in browser.text("enrolled"))
    browser.wait(lambda: not browser.run("return document.getElementById('enrol-button').disabled"))
    assert len(Index.open(shop)) == 13


def test_what_is_no_label_is_explained_beside_the_field(browser: Browser, show: Show, shop: Path) -> None:
    show(0)
    browser.enrol("a//b")
    browser.wait(lambda: "an empty part" in browser.text("enrolled"))
    assert len(Index.open(shop)) == 12


def test_the_slider_changes_what_counts_and_keep_writes_it_into_the_index(
    browser: Browser, show: Show, recogniser: Recogniser, shop: Path
) -> None:
    show(0)
    browser.shows("red")
    value = browser.slide("(Number(s.min) + Number(s.max)) / 2")
    browser.wait(lambda: recogniser.judgement.threshold == pytest.approx(value))
    browser.wait(lambda: not browser.run("return document.getElementById('keep').disabled"))
    browser.press("keep")
    browser.wait(lambda: browser.text("kept").startswith("Kept"))
    threshold = Index.open(shop).threshold
    assert threshold is not None
    assert threshold.value == pytest.approx(value)
    browser.press("own")
    browser.wait(lambda: recogniser.judgement.threshold == "auto")


def test_keep_writes_what_the_slider_shows_though_it_was_moved_a_moment_ago(
    browser: Browser, show: Show, recogniser: Recogniser, shop: Path
) -> None:
    show(0)
    browser.shows("red")
    browser.slide("0.9")
    browser.wait(lambda: not browser.run("return document.getElementById('keep').disabled"))
    shown = browser.slide("0.8", "document.getElementById('keep').click();")
    browser.wait(lambda: browser.text("kept").startswith("Kept"))
    threshold = Index.open(shop).threshold
    assert threshold is not None
    assert threshold.value == recogniser.judgement.threshold == pytest.approx(shown)


def test_reset_stands_though_the_slider_was_moved_a_moment_ago(browser: Browser, show: Show) -> None:
    show(0)
    browser.shows("red")
    browser.slide("0.9")
    browser.wait(lambda: not browser.run("return document.getElementById('own').disabled"))
    browser.run("window.told = []; tell = async (_path, what) => { told.push(what.value); return { auto: true }; }")
    # a timer that is set later and runs later than the slider's own says that this one is over
    over = "setTimeout(arguments[0], 200);"
    browser.driver.execute_async_script(MOVE.format(0.8) + "document.getElementById('own').click();" + over)
    assert browser.run("return told") == ["auto"]


def test_a_label_with_a_script_in_it_is_only_text(
    browser: Browser, show: Show, recogniser: Recogniser, shop: Path
) -> None:
    evil = "<script>document.title='taken'<\\script><img src=x onerror=alert(1)>"
    with Index.open(shop, write=True) as index:
        index.relabel("red", evil)
    recogniser.index = Index.open(shop)
    show(0)
    browser.shows(evil)
    browser.wait(lambda: browser.run("return document.querySelectorAll('#candidates li').length") >= 4)
    browser.wait(lambda: browser.run("return document.getElementById('known').options.length") == 4)
    assert browser.run("return document.querySelectorAll('main script, main img[src=x]').length") == 0
    assert browser.errors() == []


def test_labels_that_were_changed_are_offered_and_shown_though_there_are_as_many(
    browser: Browser, show: Show, recogniser: Recogniser, shop: Path
) -> None:
    show(0, "green")
    browser.wait(lambda: browser.run("return document.querySelectorAll('#candidates img.thumb').length") == 4)
    browser.wait(lambda: browser.run("return document.getElementById('known').options.length") == 4)
    with Index.open(shop, write=True) as index:
        index.relabel("green", "lime")
    recogniser.index = Index.open(shop)
    offered = "return [...document.getElementById('known').options].map((one) => one.value)"
    browser.wait(lambda: "lime" in browser.run(offered))
    browser.wait(lambda: browser.run("return document.querySelector('#candidates .name').textContent") == "lime")


def test_of_boxes_each_is_outlined_and_can_be_chosen(browser: Browser, show: Show) -> None:
    show(0, "red", (Part((0, 0, 10, 10)), Part((20, 10, 60, 40))))
    browser.wait(lambda: browser.run("return document.querySelectorAll('#boxes rect').length") == 2)
    browser.run("document.querySelectorAll('#parts button')[1].click()")
    chosen = browser.run("const r = document.querySelector('#boxes .chosen'); return [r, r.getAttribute('x')][1]")
    assert chosen == "20"


def test_a_lost_camera_is_told_with_its_sentence_and_the_age_of_the_picture(
    chromium: Any, recogniser: Recogniser, shop: Path, make_answer: Callable[..., Result]
) -> None:
    trouble = Trouble("refused", "nobody listens there: switch the camera on")
    with Camera(lambda: trouble, "rtsp://camera", Patience(on_lost="wait")) as camera:
        assert camera.wait_for("lost", LONG)
        with Page(Vitals(recogniser, camera), shop, HERE).start() as page:
            browser = Browser(chromium, page)
            browser.wait(lambda: "Nobody listens there: switch the camera on" in browser.text("banner"))
            assert browser.run("return document.getElementById('banner').hidden") is False
            chromium.get("about:blank")


@pytest.mark.parametrize("what", ["the model", "the loop"])
def test_who_hangs_is_told_with_how_long_and_the_picture_is_dimmed(
    chromium: Any, recogniser: Recogniser, shop: Path, show_in: Callable[[Vitals], Show], what: str
) -> None:
    moment = [0.0]
    vitals = Vitals(recogniser, ImageFiles([], "pictures"), clock=lambda: moment[0])
    show_in(vitals)(0, "red")
    with Page(vitals, shop, HERE).start() as page:
        browser = Browser(chromium, page)
        browser.shows("red")
        assert browser.run("return document.getElementById('banner').hidden") is True
        if what == "the model":
            vitals.beat(25.0)
        else:
            moment[0] = 25.0
        browser.wait(lambda: "hangs. It has not gone on for 25 s. The picture is" in browser.text("banner"))
        assert browser.run("return document.body.classList.contains('old')")
        vitals.beat(0.0)
        browser.wait(lambda: browser.run("return document.getElementById('banner').hidden"))
        assert not browser.run("return document.body.classList.contains('old')")
        chromium.get("about:blank")


class Quiet:
    """A sink that is as it is told to be."""

    def __init__(self, name: str, **state: Any) -> None:
        self.name, self.state = name, SinkState(**state)

    def take(self, result: Result) -> None:
        """Nothing goes anywhere."""

    def close(self) -> None:
        """Nothing was opened."""


def test_where_answers_go_is_told_with_what_is_wrong_there(chromium: Any, recogniser: Recogniser, shop: Path) -> None:
    mqtt = Quiet("mqtt", sent=3, waiting=2, dropped=1, trouble="the broker at broker:1883 refuses")
    vitals = Vitals(recogniser, ImageFiles([], "pictures"), [Quiet("inbox", sent=7), mqtt])
    with Page(vitals, shop, HERE).start() as page:
        browser = Browser(chromium, page)
        seen = "[...one.children].filter((part) => !part.hidden).map((part) => part.textContent).join('|')"
        lines = f"return [...document.querySelectorAll('#sinks li')].map((one) => {seen})"
        told = ["inbox|7 arrived", "mqtt|3 arrived, 2 waiting, 1 given up|The broker at broker:1883 refuses."]
        browser.wait(lambda: browser.run(lines) == told)
        mqtt.state = SinkState(sent=6, dropped=1)
        browser.wait(lambda: browser.run(lines) == ["inbox|7 arrived", "mqtt|6 arrived, 1 given up"])
        chromium.get("about:blank")


def test_without_sinks_nothing_is_said_of_them(browser: Browser, show: Show) -> None:
    show(0)
    browser.shows("red")
    assert browser.run("return document.getElementById('sinks-card').hidden") is True


def test_the_page_finds_a_server_again_that_was_away(chromium: Any, vitals: Vitals, shop: Path, show: Show) -> None:
    show(0, "red")
    with Page(vitals, shop, HERE).start() as page:
        browser = Browser(chromium, page)
        browser.shows("red")
        port = int(page.url.split(":")[2].rstrip("/"))
    browser.wait(lambda: "No connection to deepir-run" in browser.text("banner"))
    with Page(vitals, shop, PageAddress("127.0.0.1", port)).start():
        show(1, "green")
        browser.shows("green")
        browser.wait(lambda: browser.run("return document.getElementById('banner').hidden"))
        chromium.get("about:blank")


def test_a_picture_frozen_before_the_program_was_started_again_is_not_enrolled(
    chromium: Any, vitals: Vitals, recogniser: Recogniser, shop: Path, show: Show, show_in: Callable[[Vitals], Show]
) -> None:
    show(0, "red")
    with Page(vitals, shop, HERE).start() as page:
        browser = Browser(chromium, page)
        browser.shows("red")
        browser.press("freeze")
        port = int(page.url.split(":")[2].rstrip("/"))
    other = Vitals(recogniser, ImageFiles([], "pictures"))
    show_in(other)(0, "green")
    with Page(other, shop, PageAddress("127.0.0.1", port)).start():
        browser.wait(lambda: browser.run("return now.event.frame.answers[0].label") == "green")
        browser.enrol("cup")
        browser.wait(lambda: "was started again" in browser.text("enrolled"))
        assert len(Index.open(shop)) == 12
        browser.press("freeze")
        browser.shows("green")
        chromium.get("about:blank")


COUNT_STREAMS = """
    window.streams = [];
    const Original = EventSource;
    window.EventSource = function (url) { const made = new Original(url); streams.push(made); return made; };
"""


def test_a_server_that_wakes_after_many_tries_gets_one_stream_and_the_picture_goes_on(
    browser: Browser, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake, state, asleep = threading.Event(), Feed.state, threading.Semaphore(0)

    def slept(feed: Feed) -> bytes:
        asleep.release()
        assert awake.wait(LONG)
        return state(feed)

    show(0, "red")
    browser.shows("red")
    browser.run(COUNT_STREAMS)
    monkeypatch.setattr(Feed, "state", slept)
    browser.run("LIMITS.silence = 100; LIMITS.answer = 60000")
    for _ in range(4):
        assert asleep.acquire(timeout=LONG)
    assert browser.run("return document.body.classList.contains('old')")
    browser.run("LIMITS.silence = 60000")
    awake.set()
    show(1, "green")
    browser.shows("green")
    assert browser.run("return streams.filter((one) => one.readyState !== EventSource.CLOSED).length") == 1
    assert not browser.run("return document.body.classList.contains('old')")


def test_what_is_not_answered_is_given_up(browser: Browser, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    awake, state, change = threading.Event(), Feed.state, Desk.set_threshold

    def hung(desk: Desk, value: object, *, keep: bool) -> dict[str, Any]:
        assert awake.wait(LONG)
        return change(desk, value, keep=keep)

    show(0, "red")
    browser.shows("red")
    monkeypatch.setattr(Feed, "state", lambda feed: awake.wait(LONG) and state(feed))
    monkeypatch.setattr(Desk, "set_threshold", hung)
    browser.run("LIMITS.answer = LIMITS.change = 100")
    for asked in ("ask('state.json')", "connect()", "tell('threshold', { value: 0.5 })"):
        browser.driver.execute_async_script(f"{asked}.catch(() => null).then(arguments[0])")
    browser.run("judge({ value: 0.5 })")
    browser.wait(lambda: "look before you try again" in browser.text("kept"))
    awake.set()


def test_a_picture_that_never_comes_does_not_stop_those_after_it(
    browser: Browser, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake, of = threading.Event(), Showcase.of

    def lost(showcase: Showcase, number: int) -> Shown | None:
        assert number != 1 or awake.wait(LONG)
        return of(showcase, number)

    show(0, "red")
    browser.shows("red")
    monkeypatch.setattr(Showcase, "of", lost)
    browser.run("LIMITS.answer = 1000")
    show(1, "green")
    browser.wait(lambda: browser.run("return now.event.frame.number") == 1)
    show(2, "blue")
    browser.shows("blue")
    awake.set()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, show: Show, colours: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": colours}]
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    show(0, "red")
    browser.shows("red")
    browser.wait(lambda: browser.run("return document.querySelector('#plot path.own') !== null"))
    assert browser.run("return document.documentElement.scrollWidth") == 360
    assert browser.run("return matchMedia('(prefers-color-scheme: dark)').matches") == (colours == "dark")
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name_for_those_who_do_not_see_it(browser: Browser, show: Show) -> None:
    show(0)
    browser.shows("red")
    nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = [one for one in nodes if one.get("role", {}).get("value") in {"button", "slider", "textbox", "combobox"}]
    assert len(controls) >= 4
    assert all(one["name"]["value"] for one in controls)


def test_without_the_token_the_page_asks_for_it(chromium: Any, vitals: Vitals, shop: Path, show: Show) -> None:
    show(0, "red")
    with Page(vitals, shop, HERE, "a token").start() as page:
        whole = page.url
        browser = Browser(chromium, page)
        browser.shows("red")
        assert "token" not in chromium.current_url
        chromium.delete_all_cookies()
        chromium.get(whole.partition("?")[0])
        browser.wait(lambda: browser.run("return !document.getElementById('locked').hidden"))
        browser.run("document.getElementById('token').value = 'a token'")
        browser.run("document.querySelector('#locked button').click()")
        browser.shows("red")
        chromium.get("about:blank")
