"""HTML: tags whose text is escaped, unless it is HTML already, and the frame of the page."""

from collections.abc import Iterable, Sequence
from html import escape

_VOID = frozenset({"img", "meta", "rect", "line", "circle", "path", "br"})


class Html(str):
    """Text that is HTML already, so that `tag` does not escape it again."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: object) -> Html:
    """Return the element; `class_` becomes class, `text_anchor` text-anchor, and None leaves an attribute out."""
    words = [
        f'{key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    opening = " ".join([name, *words])
    if name in _VOID and not children:
        return Html(f"<{opening}>" if name in {"img", "meta", "br"} else f"<{opening}/>")
    return Html(f"<{opening}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Html:
    """Put HTML and text together; the text is escaped."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))


def section(title: str, *children: str) -> Html:
    """Return a part of the page under its heading."""
    return tag("section", tag("h2", title), *children)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int, marked: int | None = None) -> Html:
    """Return a table that scrolls sideways on a narrow screen.

    Args:
        columns: The headings.
        rows: The cells.
        words: How many columns at the left hold words; the others hold numbers.
        marked: The row that stands out.
    """

    def line(name: str, cells: Sequence[str]) -> list[Html]:
        return [tag(name, cell, class_=None if column < words else "number") for column, cell in enumerate(cells)]

    head = tag("thead", tag("tr", *line("th", columns)))
    body = tag(
        "tbody",
        *(
            tag("tr", *line("td", cells), class_="marked" if place == marked else None)
            for place, cells in enumerate(rows)
        ),
    )
    return tag("div", tag("table", head, body), class_="scroll")


def page(title: str, style: str, *children: str) -> str:
    """Return the whole document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', *children)), lang='en')}\n"
