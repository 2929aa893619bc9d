"""The report of a calibration as one HTML page that needs nothing else."""

from collections.abc import Iterable, Sequence
from html import escape

from deepir.calib.report import Findings
from deepir.calib.report_charts import log_bars, share_bar
from deepir.calib.report_text import beyond_words, damage_words, facts, headline, kept_words
from deepir.card import GateVerdict

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f5f2; --card: #fff; --ink: #1d2126; --soft: #5a626b; --line: #dcdad3;
  --accent: #2459c4; --kept: #c06a12; --good: #17803f; --bad: #c4301c }
@media (prefers-color-scheme: dark) { :root { --ground: #131619; --card: #1b1f23; --ink: #e8e6e1; --soft: #a3abb3;
  --line: #353c43; --accent: #79a5ff; --kept: #f0a04b; --good: #45c584; --bad: #ff7a68 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100% }
main { max-width: 72rem; margin: 0 auto; padding: 1.6rem 1rem 4rem }
h1 { font-size: 1.4rem; line-height: 1.3; margin: 0 0 .6rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 0 0 .3rem } p { margin: .2rem 0 .8rem; color: var(--soft); max-width: 48rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem;
  margin: .9rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .1rem .3rem .9rem; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 } th { color: var(--soft); font-size: .82rem }
td.wide { width: 45%; min-width: 6rem } td.read { text-align: left; white-space: normal; min-width: 9rem }
details th:nth-child(2) { text-align: left }
.bar { display: block; height: .8rem; min-width: 1px; border-radius: 3px; background: var(--accent) }
.bar.kept { background: var(--kept) } .good { color: var(--good) } .bad { color: var(--bad) }
.kept-word { color: var(--kept) }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2rem }
figure { margin: 0 } figcaption { font-size: .85rem; color: var(--soft); margin-bottom: .3rem }
svg { display: block; width: 100%; height: auto } svg line { stroke: var(--line) } svg rect { fill: var(--accent) }
svg text { font: 10px system-ui, "Segoe UI", Roboto, sans-serif; fill: var(--soft) }
summary { cursor: pointer; color: var(--accent); margin-top: .8rem }
@media (max-width: 34rem) { main { padding: 1rem .6rem 3rem } section { padding: .8rem .7rem }
  table { font-size: .84rem } th, td { padding-left: .5rem } td.wide { min-width: 3rem } }
"""


def findings_page(findings: Findings) -> str:
    """The page as HTML; names from the model are escaped, and nothing in the page can load or run."""
    sections = [
        _section("Verdicts", "On pictures that calibration did not see.", _verdicts(findings.verdicts)),
        _section("Damage by block", _damage_words(findings), _blocks(findings)),
        _section("Ranges", _range_words(findings), _charts(findings) + _tensors(findings)),
        _section("Tried on measured pictures", "Before the gate saw a picture.", _trials(findings)),
    ]
    title = escape(headline(findings))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1 class="{"good" if findings.passed else "bad"}">{title}</h1>'
        f"<p>{'. '.join(escape(fact) for fact in facts(findings))}.</p>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, words: str, content: str) -> str:
    return f"<section><h2>{title}</h2><p>{escape(words)}</p>{content}</section>" if content else ""


def _verdicts(verdicts: Sequence[GateVerdict]) -> str:
    heads = [
        "program",
        "",
        "cosine min",
        "mean",
        "same nearest",
        "mAP points",
        "recall@1 points",
        "pictures",
        "queries",
    ]
    rows = [
        [
            escape(verdict.program),
            '<b class="good">passed</b>' if verdict.passed else '<b class="bad">FAILED</b>',
            f"{verdict.cosine_min:.4f}",
            f"{verdict.cosine_mean:.4f}",
            f"{verdict.agreement:.1%}",
            _points(verdict.map_loss),
            _points(verdict.recall_loss),
            str(verdict.images),
            str(verdict.queries),
        ]
        for verdict in verdicts
    ]
    return _table(heads, (_cells(row) for row in rows)) if rows else ""


def _points(loss: float | None) -> str:
    return "-" if loss is None else f"{0.0 - 100 * loss:+.1f}"


def _damage_words(findings: Findings) -> str:
    return (
        "How much nearer to FP32 the descriptors come, in the mean cosine, when a block alone stays FP16; in the "
        f"order of the network, {findings.damage_from}."
    )


def _blocks(findings: Findings) -> str:
    most = max((abs(row.damage or 0.0) for row in findings.blocks), default=0.0) or 1.0
    rows = [
        f"<td>{escape(row.block)}</td>"
        f'<td class="wide">{"" if row.damage is None else share_bar(row.damage / most, row.kept > 0)}</td>'
        f'<td>{damage_words(row.damage)}</td><td class="kept-word">{kept_words(row)}</td>'
        f"<td>{row.convolutions}</td>"
        for row in findings.blocks
    ]
    return _table(["block", "", "damage", "", "convolutions"], rows)


def _range_words(findings: Findings) -> str:
    known = [row.beyond for row in findings.tensors if row.beyond is not None]
    if not known:
        return "The magnitude of each quantised tensor that becomes the code 127."
    beyond = "no value lay beyond its range" if not any(known) else "some values lie beyond it and are clipped"
    return f"The magnitude of each quantised tensor that becomes the code 127; {beyond}."


def _charts(findings: Findings) -> str:
    ranges = [(row.tensor, row.largest) for row in findings.tensors]
    beyond = [(row.tensor, row.beyond or 0.0) for row in findings.tensors]
    charts = [
        f"<figure><figcaption>{caption}</figcaption>{log_bars(values, words, caption)}</figure>"
        for caption, values, words in (
            ("range of each tensor", ranges, lambda value: f"{value:.3g}"),
            ("share of its values beyond", beyond, lambda value: f"{100 * value:.3g}%"),
        )
        if any(value > 0 for _, value in values)
    ]
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _tensors(findings: Findings) -> str:
    rows = [
        f'<td>{escape(row.tensor)}</td><td class="read">{escape(", ".join(row.readers))}</td>'
        f"<td>{row.largest:.4g}</td><td>{escape(beyond_words(row.beyond))}</td>"
        for row in findings.tensors
    ]
    if not rows:
        return ""
    table = _table(["tensor", "read by", "range", "beyond"], rows)
    return f"<details><summary>all {len(rows)} tensors</summary>{table}</details>"


def _trials(findings: Findings) -> str:
    rows = [
        _cells([escape(trial.recipe), f"{trial.cosine_min:.4f}", f"{trial.cosine_mean:.4f}"])
        for trial in findings.trials
    ]
    return _table(["recipe", "cosine min", "mean"], rows) if rows else ""


def _cells(cells: Iterable[str]) -> str:
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
