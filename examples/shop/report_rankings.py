"""Rankings of the report: good and worst queries, confused products, and the similarities behind them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report_charts import histogram
from report_html import Html, join, section, tag
from report_pictures import find_picture, label_of, read_picture, thumbnail

GOOD_QUERIES = 6
WORST_QUERIES = 10
SHOWN_RANKS = 5
SHOWN_PAIRS = 9


def show_rankings(run: Path, rankings: Sequence[dict[str, Any]], model: str) -> Html:
    """Return the section with the ranked lists; rankings come worst first."""
    good = _choose_good(rankings)
    perfect = sum(ranking["average_precision"] >= 1 for ranking in rankings)
    worst = rankings[:WORST_QUERIES]
    return section(
        "What it finds",
        tag(
            "p",
            f"At the left the photograph, then the {SHOWN_RANKS} most similar of all reference pictures with their "
            f"similarity, best first, as the {model} ranks them. A green frame and ✓ mark the right product, red and "
            "✗ another one.",
        ),
        tag("h3", "Good queries"),
        tag(
            "p",
            f"{perfect} of {len(rankings)} photographs have all their references at the very top; "
            f"these are {len(good)} of the best, taken at even steps through the list of products.",
            class_="soft",
        ),
        *(_show_ranking(run, ranking) for ranking in good),
        tag("h3", "Worst queries, the very worst first"),
        *(_show_ranking(run, ranking) for ranking in worst),
    )


def show_confusions(run: Path, rankings: Sequence[dict[str, Any]]) -> Html:
    """Return the section with the pairs of products that are taken for each other most often."""
    wrong = [ranking for ranking in rankings if ranking["ranked"] and not ranking["ranked"][0]["positive"]]
    counts = Counter((label_of(ranking["query"]), label_of(ranking["ranked"][0]["image"])) for ranking in wrong)
    asked = Counter(label_of(ranking["query"]) for ranking in rankings)
    examples = {(label_of(one["query"]), label_of(one["ranked"][0]["image"])): one for one in wrong}
    pairs = sorted(counts, key=lambda pair: (-counts[pair], pair))[:SHOWN_PAIRS]
    return section(
        "What it confuses",
        tag(
            "p",
            f"For {len(wrong)} of {len(rankings)} photographs the most similar reference shows another product. "
            f"These are the {len(pairs)} most frequent of {len(counts)} such pairs: a photograph, a reference of its "
            "own product, and the reference it was taken for.",
        )
        if wrong
        else tag("p", "Nothing: for every photograph the most similar reference shows the right product."),
        tag("div", *(_show_pair(run, examples[pair], counts[pair], asked[pair[0]]) for pair in pairs), class_="pairs"),
    )


def show_similarities(rankings: Sequence[dict[str, Any]], threshold: float | None) -> Html:
    """Return the section that sets the best right similarity of each query against the best wrong one."""
    right, wrong = _best(rankings, positive=True), _best(rankings, positive=False)
    absent = len(rankings) - len(right)
    notes = [
        f"Green: the most similar right reference of each photograph; red: the most similar wrong one "
        f"({len(rankings)} photographs). The further apart, the easier it is to say unknown."
    ]
    if absent:
        notes.append(
            f"{absent} photographs have no right reference among the ranks kept for this report, "
            "so they are missing from the green bars."
        )
    if threshold is not None:
        accepted = sum(value >= threshold for value in right) / len(rankings)
        false = sum(value >= threshold for value in wrong) / len(rankings)
        notes.append(
            f"At the threshold of the index, {threshold:.3f}, {accepted:.0%} of the photographs have a right "
            f"reference that is similar enough, and {false:.0%} a wrong one that is: the wrong one is an error only "
            "where it is also the more similar, or where the product is not in the index."
        )
    chart = histogram(right, wrong, threshold=threshold, title="similarities of right and wrong references")
    return section("How sure it is", *(tag("p", note) for note in notes), tag("figure", chart))


def _choose_good(rankings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return queries with the highest average precision, at even steps through their names."""
    highest = max(ranking["average_precision"] for ranking in rankings)
    best = [ranking for ranking in rankings if ranking["average_precision"] == highest]
    if len(best) < GOOD_QUERIES:
        return list(reversed(rankings[-GOOD_QUERIES:]))
    named = sorted(best, key=lambda ranking: str(ranking["query"]))
    return [named[place * len(named) // GOOD_QUERIES] for place in range(GOOD_QUERIES)]


def _show_ranking(run: Path, ranking: dict[str, Any]) -> Html:
    query = ranking["query"]
    hits = ranking["ranked"][:SHOWN_RANKS]
    title = tag("p", tag("code", label_of(query)), f" · average precision {ranking['average_precision']:.2f}")
    shots = [_shot(run, query, "query", "photograph"), *(_show_hit(run, hit) for hit in hits)]
    return join([tag("div", title, class_="ranked"), tag("div", *shots, class_="ranking")])


def _show_hit(run: Path, hit: dict[str, Any]) -> Html:
    mark, kind = ("✓", "right") if hit["positive"] else ("✗", "wrong")
    caption = join([tag("b", f"{mark} {hit['similarity']:.3f}"), tag("br"), label_of(hit["image"])])
    return _shot(run, hit["image"], kind, caption)


def _show_pair(run: Path, ranking: dict[str, Any], count: int, asked: int) -> Html:
    query, first = ranking["query"], ranking["ranked"][0]
    label, other = label_of(query), label_of(first["image"])
    own = sorted((run / "shop" / "references" / label).glob("*.jpg"))[0]
    shots = [
        _shot(run, query, "query", "photograph"),
        _shot(run, str(own), "right", "its reference"),
        _shot(run, first["image"], "wrong", f"taken for it, {first['similarity']:.3f}"),
    ]
    title = tag("p", tag("code", label), " taken for ", tag("code", other), f", {count} of {asked} photographs")
    return tag("div", title, tag("div", *shots, class_="row"), class_="pair")


def _shot(run: Path, name: str, kind: str, caption: str) -> Html:
    picture = thumbnail(read_picture(find_picture(run, name)), label_of(name))
    return tag("figure", picture, tag("figcaption", caption), class_=f"shot {kind}")


def _best(rankings: Sequence[dict[str, Any]], *, positive: bool) -> list[float]:
    kept = [[hit["similarity"] for hit in one["ranked"] if hit["positive"] is positive] for one in rankings]
    return [max(values) for values in kept if values]
