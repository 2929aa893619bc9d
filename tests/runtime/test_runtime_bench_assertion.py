"""The bounds of deepir-bench --assert: what is understood, what is refused, and what is not reached."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.card import GateVerdict
from deepir.errors import OptionError
from deepir.runtime.backend import BackendName
from deepir.runtime.bench import Row
from deepir.runtime.bench_assertion import STAGES, parse_assertion, unmet, value_of
from deepir.runtime.bench_measure import Measured

VERDICT = GateVerdict(passed=True, cosine_min=0.97, cosine_mean=0.995, agreement=0.9, images=32)
NUMBERS = {"<": [1.0, 2.0], "<=": [1.0, 2.0, 3.0], ">": [4.0, 5.0], ">=": [3.0, 4.0, 5.0]}


def row(backend: BackendName = "onnxruntime", p99: float = 20.0) -> Row:
    measured = Measured(
        program="it",
        why="asked for",
        fingerprint="0123456789abcdef",
        numerics="fp32",
        load_ms=1500.0,
        warm_up=32,
        pictures=100,
        stages={"describe": {"p50": 4.0, "p90": 5.0, "p99": 6.0}, "total": {"p50": 8.0, "p90": 9.0, "p99": p99}},
        rate=110.0,
        engine_rate=220.0,
        peak_bytes=250_000_000,
    )
    return Row(backend=backend, measured=measured, verdict=VERDICT)


@pytest.mark.parametrize(
    ("text", "metric", "bound"),
    [
        ("p99<25ms", "p99", 25.0),
        ("p50 <= 0.5 s", "p50", 500.0),
        ("describe.p90<4ms", "describe.p90", 4.0),
        ("load<2s", "load", 2000.0),
        ("rate>=30", "rate", 30.0),
        ("engine_rate>30/s", "engine_rate", 30.0),
        ("recall1>=0.99", "recall1", 0.99),
        ("cosine>=99%", "cosine", 0.99),
        ("memory<300MB", "memory", 3e8),
        (" memory<1.5GB ", "memory", 1.5e9),
    ],
)
def test_a_bound_is_understood(text: str, metric: str, bound: float) -> None:
    parsed = parse_assertion(text)
    assert (parsed.metric, parsed.bound, parsed.backend) == (metric, pytest.approx(bound), "")


@pytest.mark.parametrize(
    "text",
    [
        *("", "p99", "p99<", "<25ms", "p99<25", "p99<25MB", "p99==25ms", "p99!=25ms", "p98<25ms", "25ms>p99"),
        *("p99<-25ms", "p99<1e3ms", "p99<.5ms", "p99<nanms", "p99<25ms or 1", "p99<25ms;p50<1ms", "P99<25ms"),
        *("recall1>=0.99ms", "memory<3", "torch:p99<25ms", ":p99<25ms", "infer.p99<1ms", "p99.describe<1ms"),
        *("__import__('os')<1", "p99<25ms\np50<1ms", "describe.<1ms", "total<5ms", "recall1>=0,99", "rate<1ms"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--assert"):
        parse_assertion(text)


@given(st.text(max_size=30))
def test_no_text_raises_anything_but_the_refusal(text: str) -> None:
    try:
        parse_assertion(text)
    except OptionError:
        return
    assert any(sign in text for sign in "<>")


@pytest.mark.parametrize("sign", NUMBERS)
def test_a_sign_means_what_it_means(sign: str) -> None:
    assertion = parse_assertion(f"p99{sign}3ms")
    met = [value for value in (1.0, 2.0, 3.0, 4.0, 5.0) if not unmet(assertion, [row(p99=value)])]
    assert met == NUMBERS[sign]


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        *(("p50", 8.0), ("total.p99", 20.0), ("describe.p99", 6.0), ("load", 1500.0)),
        *(("rate", 110.0), ("engine_rate", 220.0), ("memory", 250e6)),
        *(("cosine", 0.97), ("cosine_mean", 0.995), ("recall1", 0.9)),
    ],
)
def test_a_figure_is_the_one_that_is_named(metric: str, value: float) -> None:
    assert value_of(row(), metric) == pytest.approx(value)


def test_what_is_not_reached_is_told_in_the_unit_of_the_bound() -> None:
    assert unmet(parse_assertion("load<1.2s"), [row()]) == ["load<1.2s: onnxruntime has 1.5s"]
    assert unmet(parse_assertion("recall1>=99%"), [row()]) == ["recall1>=99%: onnxruntime has 90%"]


def test_without_a_program_every_one_that_ran_must_reach_it() -> None:
    rows = [row("openvino", p99=30.0), row("onnxruntime", p99=40.0), Row(backend="cuda", reason="no driver")]
    told = unmet(parse_assertion("p99<25ms"), rows)
    assert told == ["p99<25ms: openvino has 30ms", "p99<25ms: onnxruntime has 40ms"]


def test_with_a_program_only_that_one_must_and_it_must_have_run() -> None:
    rows = [row("openvino", p99=20.0), row("onnxruntime", p99=40.0), Row(backend="cuda", reason="no driver")]
    assert unmet(parse_assertion("openvino:p99<25ms"), rows) == []
    assert unmet(parse_assertion("cuda:p99<25ms"), rows) == ["cuda:p99<25ms: cuda has no p99: no driver"]
    (sentence,) = unmet(parse_assertion("tensorrt:p99<25ms"), rows)
    assert "was not measured" in sentence


@pytest.mark.parametrize(
    ("text", "cure"), [("search.p99<1ms", "--index"), ("read.p99<1ms", "--source"), ("recall1>=0.9", "reference")]
)
def test_a_figure_that_is_not_there_says_what_to_give(text: str, cure: str) -> None:
    bare = Row(backend="onnxruntime", measured=row().measured)
    (sentence,) = unmet(parse_assertion(text), [bare])
    assert cure in sentence


def test_every_stage_can_be_bounded() -> None:
    assert [parse_assertion(f"{stage}.p50<1ms").metric for stage in STAGES] == [f"{stage}.p50" for stage in STAGES]
