"""A page that shows what a score is made of: the figures, the stamp, and the worst queries with their rankings."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from deepir.errors import InputError, OptionError
from deepir.export.eval_stamp import stamp_facts
from deepir.files import write_text
from deepir.image import read_image
from deepir.optional import need

MOST_QUERIES = 50

_SIDE = 176
"""Longer side of a picture in the page, in pixels: sharp enough at half its size on a phone."""

_QUALITY = 72
_LABELS = {"positive": "✓ positive", "negative": "✗ negative", "junk": "· junk, not counted"}

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f5f2; --card: #fff; --ink: #1d2126; --soft: #5a626b; --line: #dcdad3;
  --positive: #17803f; --negative: #c4301c; --junk: #858c94 }
@media (prefers-color-scheme: dark) { :root { --ground: #131619; --card: #1b1f23; --ink: #e8e6e1; --soft: #a3abb3;
  --line: #353c43; --positive: #45c584; --negative: #ff7a68; --junk: #8a929a } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100% }
main { max-width: 76rem; margin: 0 auto; padding: 1.6rem 1rem 4rem }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 1rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem }
h3 { font-size: .98rem; margin: 0 0 .15rem; overflow-wrap: anywhere }
p { margin: .2rem 0 .8rem; color: var(--soft); max-width: 48rem }
section, article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem;
  margin: .9rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .35rem .1rem .35rem .9rem; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
th { color: var(--soft); font-size: .82rem } td b { font-size: 1.1rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; font-size: .88rem }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
.ranking { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .8rem;
  align-items: start }
figure { margin: 0; min-width: 0 }
img, .absent { display: block; width: 100%; height: auto; border: 4px solid var(--line); border-radius: 6px }
.absent { padding: 1.6rem .3rem; text-align: center; font-size: .78rem; color: var(--soft) }
.positive > :first-child { border-color: var(--positive) } .positive b { color: var(--positive) }
.negative > :first-child { border-color: var(--negative) } .negative b { color: var(--negative) }
.junk > :first-child { border-color: var(--junk); border-style: dashed } .junk b { color: var(--junk) }
figcaption { font-size: .78rem; line-height: 1.35; margin-top: .2rem; overflow-wrap: anywhere }
figcaption span { display: block; color: var(--soft) }
@media (max-width: 34rem) { main { padding: 1rem .6rem 3rem } section, article { padding: .8rem .7rem }
  dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .45rem }
  .ranking { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .45rem } }
"""


def check_place(path: Path) -> None:
    """Refuse, before anything is computed, a place where no report can be written.

    Raises:
        InputError: A folder, or in a folder that does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        message = f"cannot write the report {path}: it is a folder, or its folder {path.parent} does not exist"
        raise InputError(message)


def write_report(result: dict[str, Any], path: Path, *, queries: int = MOST_QUERIES) -> None:
    """Write what `evaluate` returned as one HTML file that needs nothing else, whole or not at all.

    Args:
        result: Of `deepir.export.evaluate.evaluate`.
        path: The file to write.
        queries: At most so many are shown, the worst, in equal shares of the sets.

    Raises:
        OptionError: Fewer than one query.
        InputError: The folder does not exist.
    """
    if queries < 1:
        message = f"a report needs 1 query or more to show, got {queries}"
        raise OptionError(message)
    write_text(path, report_html(result, queries=queries))


def report_html(result: dict[str, Any], *, queries: int = MOST_QUERIES) -> str:
    """The page; a picture that cannot be read any more is a grey field with its name."""
    title = f"{Path(result['model']).name} on {result['dataset']}"
    share = max(1, queries // len(result["sets"]))
    sets = [_set_html(name, scores, Path(result["root"]), share) for name, scores in result["sets"].items()]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # no name in the page can load or run anything, should one ever escape its escaping
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        f"<section>{_table_html(result['sets'])}</section><section>{_stamp_html(result)}</section>"
        f"{''.join(sets)}</main></body></html>\n"
    )


def _table_html(sets: dict[str, dict[str, Any]]) -> str:
    heads = ["set", "mAP", *(label for label, _ in _measures(next(iter(sets.values())))), "queries", "pictures"]
    rows = [
        [
            escape(name),
            f"<b>{scores['mean_ap']:.4f}</b>",
            *(f"{value:.4f}" for _, value in _measures(scores)),
            str(scores["queries"]),
            str(scores["database"]),
        ]
        for name, scores in sets.items()
    ]
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{_cells(heads, "th")}</tr>{body}</table></div>'


def _measures(scores: dict[str, Any]) -> list[tuple[str, float]]:
    measures = [(f"recall@{k}", value) for k, value in scores["recall_at"].items()]
    measures += [(f"precision@{k}", value) for k, value in scores["precision_at"].items()]
    return [*measures, ("R-precision", scores["r_precision"])]


def _cells(cells: Iterable[str], name: str) -> str:
    return "".join(f"<{name}>{cell}</{name}>" for cell in cells)


def _stamp_html(result: dict[str, Any]) -> str:
    facts = "".join(f"<dt>{escape(what)}</dt><dd>{escape(how)}</dd>" for what, how in stamp_facts(result["stamp"]))
    return f"<dl>{facts}</dl>"


def _set_html(name: str, scores: dict[str, Any], root: Path, most: int) -> str:
    shown = scores["rankings"][:most]
    words = f"The {len(shown)} worst of {len(scores['rankings'])} queries, the worst first."
    articles = "".join(_ranking_html(ranking, root) for ranking in shown)
    return f"<h2>{escape(name)}</h2><p>{words}</p>{articles}"


def _ranking_html(ranking: dict[str, Any], root: Path) -> str:
    ranks = [
        (hit, "positive" if hit["positive"] else "negative", rank) for rank, hit in enumerate(ranking["ranked"], 1)
    ]
    shown = [*ranks, *((hit, "junk", None) for hit in ranking["junk"])]
    shown.sort(key=lambda one: -one[0]["similarity"])
    found = sum(hit["positive"] for hit in ranking["ranked"])
    figures = [_query_html(ranking, root), *(_hit_html(hit, kind, rank, root) for hit, kind, rank in shown)]
    words = (
        f"average precision {ranking['average_precision']:.3f}; {found} of {ranking['positives']} positives "
        f"among the first {len(ranking['ranked'])}"
    )
    return (
        f"<article><h3>{escape(_short(ranking['query'], root))}</h3><p>{words}</p>"
        f'<div class="ranking">{"".join(figures)}</div></article>'
    )


def _query_html(ranking: dict[str, Any], root: Path) -> str:
    box = ranking["box"]
    caption = "query" if box is None else "query, its box"
    picture = _picture_html(ranking["query"], f"query: {_short(ranking['query'], root)}", box)
    return f'<figure class="query">{picture}<figcaption><b>{caption}</b></figcaption></figure>'


def _hit_html(hit: dict[str, Any], kind: str, rank: int | None, root: Path) -> str:
    name = _short(hit["image"], root)
    place = "" if rank is None else f"{rank}. "
    picture = _picture_html(hit["image"], f"{kind}: {name}")
    return (
        f'<figure class="{kind}">{picture}<figcaption><b>{place}{_LABELS[kind]}</b> {hit["similarity"]:.3f}'
        f"<span>{escape(name)}</span></figcaption></figure>"
    )


def _picture_html(image: str, description: str, box: Sequence[float] | None = None) -> str:
    small = _thumbnail(image, box)
    if small is None:
        return '<div class="absent">no picture</div>'
    encoded, width, height = small
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{escape(description)}" width="{width}" height="{height}">'


def _thumbnail(image: str, box: Sequence[float] | None) -> tuple[str, int, int] | None:
    """A small JPEG in base64 with its width and height; None where there is no picture to read."""
    try:
        rgb = read_image(Path(image))
    except InputError:
        return None
    if box is not None:
        left, top, right, bottom = (max(0, round(corner)) for corner in box)
        rgb = rgb[top:bottom, left:right] if rgb[top:bottom, left:right].size else rgb
    cv2 = need("cv2")
    ratio = min(1.0, _SIDE / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * ratio)), max(1, round(rgb.shape[0] * ratio))
    bgr = np.ascontiguousarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)[:, :, ::-1])
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(encoded.tobytes()).decode("ascii"), *size


def _short(image: str, root: Path) -> str:
    path = Path(image)
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
