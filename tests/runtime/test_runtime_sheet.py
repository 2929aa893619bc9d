"""The contact sheet shows its rows in order, needs nothing else, runs nothing that a name says, and stays small."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deepir.errors import InputError, OptionError, ShapeError
from deepir.runtime.sheet import Group, Picture, sheet_html, write_sheet

HOSTILE = '<script>alert("x")</script>&\'">.png'
WritePicture = Callable[[Path, NDArray[np.uint8]], Path]


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        # where a line may break is no text
        self.feed(html.replace("<wbr>", ""))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def red(tmp_path: Path, write_picture: WritePicture) -> Path:
    pixels = np.zeros((400, 200, 3), np.uint8)
    pixels[:, :, 0] = 255
    return write_picture(tmp_path / "red.png", pixels)


def row(red: Path, count: int = 1) -> Group:
    return Group(title="group", pictures=[Picture(path=red, caption=f"view {number}") for number in range(count)])


def test_names_are_shown_and_not_run(tmp_path: Path) -> None:
    file = tmp_path / "<b onclick=x>.png"
    pictures = [Picture(path=file, caption=HOSTILE), Picture(path=None, caption=HOSTILE)]
    html = sheet_html(HOSTILE, {HOSTILE: HOSTILE}, [Group(title=HOSTILE, note=HOSTILE, pictures=pictures)])
    page = Page(html)
    assert not page.of("script")
    assert not [one for _, attributes in page.tags for one in attributes if one.startswith("on")]
    assert not page.of("b")
    # the title twice, a fact twice, heading, note, a tile and two captions
    assert page.texts.count(HOSTILE) == 9
    assert page.texts.count(file.name) == 1


def test_a_hostile_caption_stays_inside_the_description_of_its_picture(red: Path) -> None:
    page = Page(sheet_html("t", {}, [Group(title="g", pictures=[Picture(path=red, caption='" onload="x')])]))
    (picture,) = page.of("img")
    assert picture["alt"] == '" onload="x'
    assert "onload" not in picture


def test_the_page_needs_nothing_else(red: Path) -> None:
    html = sheet_html("t", {"a": "b"}, [row(red)])
    page = Page(html)
    assert [str(one["src"]).partition(",")[0] for one in page.of("img")] == ["data:image/jpeg;base64"]
    assert not page.of("link")
    policies = [meta["content"] for meta in page.of("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "http" not in html.replace("http-equiv", "")


def test_the_page_fits_a_phone_and_the_dark(red: Path) -> None:
    html = sheet_html("t", {}, [row(red)])
    assert [meta["content"] for meta in Page(html).of("meta") if meta.get("name") == "viewport"] == [
        "width=device-width, initial-scale=1"
    ]
    assert "prefers-color-scheme: dark" in html


def test_a_picture_becomes_small_and_keeps_colour_and_shape(red: Path) -> None:
    (picture,) = Page(sheet_html("t", {}, [row(red)])).of("img")
    encoded = base64.b64decode(str(picture["src"]).partition(",")[2])
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (176, 88, 3)
    assert (picture["width"], picture["height"]) == ("88", "176")
    assert decoded.mean(axis=(0, 1)).round().tolist() == pytest.approx([0, 0, 254], abs=2), "OpenCV reads BGR"


def test_a_small_picture_is_not_enlarged(tmp_path: Path, write_picture: WritePicture) -> None:
    small = write_picture(tmp_path / "small.png", np.full((1, 30, 3), 9, np.uint8))
    (picture,) = Page(sheet_html("t", {}, [row(small)])).of("img")
    assert (picture["width"], picture["height"]) == ("30", "1")


def test_figures_keep_their_order_and_show_similarity_and_status_in_words_too(red: Path) -> None:
    pictures = [
        Picture(path=red, caption="query"),
        Picture(path=red, caption="itself", similarity=1.0, good=True),
        Picture(path=red, caption="other", similarity=0.12345, good=False),
        Picture(path=red, caption="near", similarity=-0.5),
        Picture(path=red, caption="right", good=True),
    ]
    html = sheet_html("t", {}, [Group(title="g", pictures=pictures)])
    assert re.findall(r'<figure class="(\w+)">', html) == ["neutral", "good", "bad", "neutral", "good"]
    captions = [re.sub("<.*?>", "", caption) for caption in re.findall(r"<figcaption>(.*?)</figcaption>", html)]
    assert captions == ["query", "✓ 1.000 itself", "✗ 0.123 other", "-0.500 near", "✓  right"]


def test_title_facts_and_groups_follow_each_other(red: Path) -> None:
    groups = [Group(title="first", note="said of it", pictures=[]), Group(title="second", pictures=[])]
    texts = Page(sheet_html("Errors", {"index": "shop", "queries": "12"}, groups)).texts
    shown = [text for text in texts if text.strip() and "color" not in text]
    assert shown == ["Errors", "Errors", "index", "shop", "queries", "12", "first", "said of it", "second"]


@pytest.mark.parametrize("content", [None, b"", b"no picture"], ids=["missing", "empty", "foreign"])
def test_a_picture_that_cannot_be_read_becomes_a_grey_tile_with_its_name(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "view.jpg"
    if content is not None:
        path.write_bytes(content)
    page = Page(sheet_html("t", {}, [row(path)]))
    assert not page.of("img")
    assert [one["class"] for one in page.of("div") if one["class"] != "row"] == ["absent"]
    assert "view.jpg" in page.texts


def test_a_picture_that_never_had_a_file_is_called_by_its_caption() -> None:
    page = Page(sheet_html("t", {}, [Group(title="g", pictures=[Picture(path=None, caption="camera")])]))
    assert page.texts.count("camera") == 2


@pytest.mark.parametrize(
    ("most", "words"), [(1, ["2 more groups are not shown."]), (2, ["1 more group is not shown."])]
)
def test_groups_beyond_the_limit_are_counted(most: int, words: list[str], red: Path) -> None:
    page = Page(sheet_html("t", {}, [row(red)] * 3, most_groups=most))
    assert len(page.of("section")) == most
    assert [text for text in page.texts if "more" in text and "shown" in text] == words


def test_pictures_beyond_the_limit_are_counted_in_their_group(red: Path) -> None:
    page = Page(sheet_html("t", {}, [row(red, 5), row(red, 2)], most_pictures=3))
    assert len(page.of("img")) == 5
    assert [text for text in page.texts if "more" in text and "shown" in text] == ["2 more pictures are not shown."]


def test_a_full_page_stays_small(tmp_path: Path, rng: np.random.Generator, write_picture: WritePicture) -> None:
    noise = write_picture(tmp_path / "noise.png", rng.integers(0, 256, (600, 600, 3), dtype=np.uint8))
    html = sheet_html("t", {}, [row(noise, 100)])
    assert html.count("<img") == 24
    # noise is the worst that JPEG meets
    assert len(html) < 24 * 32_000


def test_a_file_name_that_is_not_utf_8_is_shown_without_its_broken_letters(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    write_sheet(tmp_path / "s.html", name, {}, [Group(title=name, pictures=[Picture(path=Path(name), caption=name)])])
    assert (tmp_path / "s.html").read_text(encoding="utf-8").count("caf?.jpg") == 5


def test_the_sheet_is_written_as_it_was_made(red: Path, tmp_path: Path) -> None:
    write_sheet(tmp_path / "s.html", "t", {"a": "b"}, [row(red)])
    assert (tmp_path / "s.html").read_text(encoding="utf-8") == sheet_html("t", {"a": "b"}, [row(red)])


def test_a_place_where_nothing_can_be_written_is_refused(red: Path, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent" / "s.html"):
        with pytest.raises(InputError, match="cannot write the sheet"):
            write_sheet(place, "t", {}, [row(red)])


def test_a_similarity_that_is_no_number_is_refused() -> None:
    with pytest.raises(ShapeError, match="finite similarity or none, got nan"):
        Picture(path=None, caption="c", similarity=float("nan"))


@pytest.mark.parametrize(("groups", "pictures"), [(0, 1), (1, 0)])
def test_nothing_to_show_is_refused(groups: int, pictures: int) -> None:
    with pytest.raises(OptionError, match="1 group and 1 picture or more"):
        sheet_html("t", {}, [], most_groups=groups, most_pictures=pictures)


def test_a_long_label_breaks_after_its_parts_and_only_where_it_is_shown(red: Path) -> None:
    name = "tea/green_leaves/100g"
    html = sheet_html(name, {}, [Group(title=name, pictures=[Picture(path=red, caption=name)])])
    shown = "tea/<wbr>green_leaves/<wbr>100g"
    assert html.count(shown) == 3
    assert f"<title>{name}</title>" in html
    assert f'alt="{name}"' in html
