"""Downloads against a real server on this machine: what comes, what does not, and that a second run goes on."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import deepir.distill.download as module
from deepir.datasets import LabelledImage
from deepir.distill.collect_log import read_log
from deepir.distill.collect_source import ClassLimits
from deepir.distill.data_cli import collect_command
from deepir.distill.download import BROKEN_LOG, DONE_LOG, RemotePicture, download, read_url_csv
from deepir.distill.fetch import FetchConfig, Fetcher
from deepir.errors import InputError, OptionError

FAST = FetchConfig(threads=4, timeout=5, most_mib=1)
NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def encoded(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, NOISE)[1])


JPEG = encoded(".jpg")


class Handler(BaseHTTPRequestHandler):
    """Pictures, and every way of not giving one."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = self.path.lstrip("/")
        if name in self.server.gone:
            self.send_error(404)
        elif name.startswith(("redirect?", "loop")):
            self.send_response(302)
            self.send_header("Location", name.partition("?")[2] or "/loop")
            self.end_headers()
        elif name == "short.jpg":
            self.give(JPEG[: len(JPEG) // 2], length=len(JPEG))
        elif name == "half.jpg":
            self.give(JPEG[: len(JPEG) // 2])
        elif name == "page.jpg":
            self.give(b"<html>no picture here</html>")
        elif name == "fake.jpg":
            self.give(JPEG[:3] + b"nothing behind the first bytes")
        elif name == "endless.jpg":
            self.give(JPEG + bytes(2 << 20))
        elif name == "nothing.jpg":
            self.give(b"")
        else:
            self.give(encoded("." + name.rpartition(".")[2]))

    def give(self, content: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Keeps what it was asked for; what is in `gone` is answered with 404."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.gone: set[str] = set()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up early is part of the tests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def row(server: Server, name: str, label: str = "7") -> RemotePicture:
    return RemotePicture(name.partition(".")[0], f"{server.root}/{name}", label)


def write_csv(path: Path, *rows: RemotePicture) -> Path:
    lines = [f"{picture.key},{picture.url},{picture.label}" for picture in rows]
    path.write_text("\n".join(["id,url,landmark_id", *lines]) + "\n")
    return path


def test_pictures_come_as_they_are_each_under_its_label(server: Server, tmp_path: Path) -> None:
    rows = [
        row(server, f"{number}.{kind}", str(number % 2))
        for number, kind in enumerate(["jpg", "png", "webp", "bmp"] * 6)
    ]
    listing = download(rows, tmp_path / "d", FAST)
    assert [image.path.name for image in listing.images] == [url.url.rpartition("/")[2] for url in rows]
    assert listing.images[1] == LabelledImage(tmp_path / "d" / "1" / "1.png", "1")
    assert {image.path.read_bytes() for image in listing.images if image.path.suffix == ".jpg"} == {JPEG}
    assert listing.left_out == {"broken": [], "labels outside the limits": []}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jpg", "404"),
        ("short.jpg", "cut short"),
        ("half.jpg", "cannot decode"),
        ("page.jpg", "not a picture: the file begins with b'<html>"),
        ("fake.jpg", "cannot decode"),
        ("endless.jpg", "larger than 1 MiB"),
        ("nothing.jpg", "not a picture"),
        ("redirect?file:///etc/passwd", "file"),
        ("redirect?ftp://127.0.0.1/a.jpg", "ftp"),
        ("redirect?data:image/png;base64,AAAA", "data"),
        ("redirect?/loop", "redirect"),
    ],
)
def test_what_is_no_picture_is_broken_with_its_reason(server: Server, tmp_path: Path, name: str, reason: str) -> None:
    server.gone.add("missing.jpg")
    rows = [row(server, "good.jpg"), RemotePicture("bad", f"{server.root}/{name}", "7")]
    listing = download(rows, tmp_path, FAST)
    assert (len(listing.images), listing.left_out["broken"]) == (1, ["bad"])
    (entry,) = read_log(tmp_path / BROKEN_LOG)
    assert (entry["id"], reason in entry["reason"]) == ("bad", True), entry
    assert [path.name for path in (tmp_path / "7").iterdir()] == ["good.jpg"]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b.jpg", "data:image/png;base64,A", "None", "", "/a.jpg"]
)
def test_only_http_addresses_are_opened(url: str) -> None:
    with pytest.raises(InputError, match="not an http or https address"):
        Fetcher(FAST).fetch(url)


@pytest.mark.parametrize(
    "url", ["http:///x", "http://[::1", "http://127.0.0.1:99999/a.jpg", "http://127.0.0.1:1/a b\n.jpg", "HTTP://a..b/"]
)
def test_an_address_that_cannot_be_is_broken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(InputError, match="no answer"):
        Fetcher(FAST).fetch(url)


def test_a_redirection_to_a_picture_is_followed(server: Server) -> None:
    assert Fetcher(FAST).fetch(f"{server.root}/redirect?/a.jpg") == JPEG


def test_a_second_run_fetches_only_what_is_new_and_leaves_broken_addresses_alone(
    server: Server, tmp_path: Path
) -> None:
    server.gone.add("b.jpg")
    rows = [row(server, "a.jpg"), row(server, "b.jpg")]
    download(rows, tmp_path, FAST)
    server.asked.clear()
    listing = download([*rows, row(server, "c.jpg")], tmp_path, FAST)
    assert server.asked == ["/c.jpg"]
    assert ([image.path.stem for image in listing.images], listing.left_out["broken"]) == (["a", "c"], ["b"])


def test_broken_addresses_are_tried_again_when_asked(server: Server, tmp_path: Path) -> None:
    server.gone.add("b.jpg")
    rows = [row(server, "a.jpg"), row(server, "b.jpg")]
    download(rows, tmp_path, FAST)
    server.gone.clear()
    server.asked.clear()
    again = FetchConfig(timeout=5, retry_broken=True)
    assert len(download(rows, tmp_path, again).images) == 2
    assert len(download(rows, tmp_path, FAST).images) == 2
    assert server.asked == ["/b.jpg"]
    assert [entry["id"] for entry in read_log(tmp_path / DONE_LOG)] == ["a", "b"]
    assert [entry["id"] for entry in read_log(tmp_path / BROKEN_LOG)] == ["b"]


def test_an_interrupted_run_goes_on_where_it_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(server, f"{number}.jpg") for number in range(12)]
    store, stored = module._store, []

    def interrupted(picture: RemotePicture, content: bytes, folder: Path) -> Path:
        if len(stored) == 5:
            raise KeyboardInterrupt
        stored.append(picture)
        return store(picture, content, folder)

    monkeypatch.setattr(module, "_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(rows, tmp_path, FAST)
    monkeypatch.setattr(module, "_store", store)
    with (tmp_path / DONE_LOG).open("a") as stream:
        stream.write('{"id": "torn')
    server.asked.clear()
    assert len(download(rows, tmp_path, FAST).images) == 12
    assert sorted(server.asked) == sorted(f"/{number}.jpg" for number in range(5, 12))
    assert len(read_log(tmp_path / DONE_LOG)) == 12


def test_a_file_that_was_lost_or_cut_is_fetched_again(server: Server, tmp_path: Path) -> None:
    rows = [row(server, "a.jpg"), row(server, "b.jpg"), row(server, "c.jpg")]
    download(rows, tmp_path, FAST)
    (tmp_path / "7" / "a.jpg").unlink()
    (tmp_path / "7" / "b.jpg").write_bytes(JPEG[:100])
    server.asked.clear()
    download(rows, tmp_path, FAST)
    assert sorted(server.asked) == ["/a.jpg", "/b.jpg"]
    assert (tmp_path / "7" / "b.jpg").read_bytes() == JPEG


def test_labels_outside_the_limits_are_not_fetched(server: Server, tmp_path: Path) -> None:
    rows = [row(server, "a.jpg", "1"), row(server, "b.jpg", "2"), row(server, "c.jpg", "2")]
    listing = download(rows, tmp_path, FAST, limits=ClassLimits(fewest=2))
    assert (sorted(server.asked), listing.left_out["labels outside the limits"]) == (["/b.jpg", "/c.jpg"], ["1"])


def test_few_pictures_are_under_way_at_a_time(server: Server) -> None:
    rows = [row(server, f"{number}.jpg") for number in range(30)]
    taken: list[RemotePicture] = []

    def waiting() -> Iterator[RemotePicture]:
        for picture in rows:
            taken.append(picture)
            yield picture

    # pools of other tests in this process may still be there
    before = set(threading.enumerate())
    for number, (picture, _) in enumerate(module._fetched(waiting(), FetchConfig(threads=2, timeout=5))):
        assert picture == rows[number]
        assert len(taken) <= number + 4
        started = set(threading.enumerate()) - before
        assert len([thread for thread in started if thread.name.startswith("ThreadPoolExecutor")]) <= 2


def test_nothing_to_be_had_is_an_error_that_names_the_log(server: Server, tmp_path: Path) -> None:
    server.gone.add("a.jpg")
    with pytest.raises(InputError, match=r"none of the 1 pictures .*broken\.log"):
        download([row(server, "a.jpg")], tmp_path, FAST)


@pytest.mark.parametrize("key", ["../up", "a/b", "..", ".", "", "a.jpg", "a\\b", "a b", "-rf", "é", "x" * 129, "a\nb"])
def test_an_id_that_could_name_a_file_elsewhere_is_refused_before_anything_is_fetched(key: str, tmp_path: Path) -> None:
    for bad in (RemotePicture(key, "http://127.0.0.1/a.jpg", "7"), RemotePicture("a", "http://127.0.0.1/a.jpg", key)):
        with pytest.raises(InputError, match="cannot be a file's name"):
            module._check_names(Path("train.csv"), [bad])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "lacks the columns"),
        (b"id,url\na,b\n", "landmark_id"),
        (b"id,url,landmark_id\n", "has no rows"),
        (b"id,url,landmark_id\n../a,http://x/,7\n", "'../a'"),
        (b"id,url,landmark_id\na,http://x/\n", "landmark_id ''"),
        (b"id,url,landmark_id\na,http://x/,7\na,http://y/,7\n", "two different rows"),
        (b"\xff\xfe\x00", "not a CSV in UTF-8"),
    ],
)
def test_what_is_no_csv_of_pictures_is_refused(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(InputError) as failure:
        read_url_csv(tmp_path / "train.csv")
    assert part in str(failure.value)


def test_a_csv_as_it_is_published_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text(
        '\ufeff"id","url","landmark_id","x"\n"a1","https://h/a,b.jpg","7","?"\n"a1","https://h/a,b.jpg","7","?"\n'
    )
    assert read_url_csv(path) == [RemotePicture("a1", "https://h/a,b.jpg", "7")]
    with pytest.raises(InputError, match="cannot read"):
        read_url_csv(tmp_path / "absent.csv")


@pytest.mark.parametrize("limits", [{"threads": 0}, {"threads": 65}, {"timeout": 0}, {"most_mib": 0}])
def test_limits_out_of_range_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        FetchConfig(**limits)


def test_the_command_collects_what_a_csv_names(server: Server, tmp_path: Path) -> None:
    server.gone.add("d.jpg")
    path = write_csv(
        tmp_path / "train.csv",
        *(row(server, f"{name}.jpg", label) for name, label in zip("abcde", "11223", strict=True)),
    )
    words = [str(path), str(tmp_path / "out"), "--size", "48x64", "--min-pictures", "2"]
    for _ in range(2):
        result = CliRunner().invoke(collect_command, words)
        assert result.exit_code == 0, result.output
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert [picture["image"] for picture in manifest["pictures"]] == ["1/a.jpg", "1/b.jpg"]
        assert manifest["left_out"]["broken"] == ["d"]
        assert manifest["left_out"]["labels outside the limits"] == ["2", "3"]
    assert sorted(server.asked) == ["/a.jpg", "/b.jpg", "/c.jpg", "/d.jpg"]
    assert sorted(path.name for path in (tmp_path / "out.downloads").iterdir()) == ["1", "2", BROKEN_LOG, DONE_LOG]
