"""The model card: round trip, and refusal of what was damaged or altered."""

import dataclasses
import json

import pytest

from deepir.card import GateVerdict, ModelCard
from deepir.errors import ModelError
from deepir.spec import ModelSpec, Numerics

SPEC = ModelSpec(
    backbone="timm:resnet18",
    sizes=((224, 224),),
    mean=(0, 0, 0),
    std=(1, 1, 1),
    stride=32,
    channels=512,
    dim=128,
    weights="ab12",
)
VERDICT = GateVerdict(passed=True, cosine_min=0.98, cosine_mean=0.995, agreement=1.0, images=40)


FAILED = dataclasses.replace(
    VERDICT, passed=False, program="OpenVINO, CPU (bf16)", map_loss=0.02, recall_loss=-0.01, queries=30
)


def edited(**changes: object) -> str:
    return json.dumps({**json.loads(ModelCard(SPEC).to_json()), **changes})


@pytest.mark.parametrize("numerics", Numerics)
@pytest.mark.parametrize("gates", [(), (VERDICT,), (VERDICT, FAILED)])
def test_json_gives_the_same_card_back(numerics: Numerics, gates: tuple[GateVerdict, ...]) -> None:
    card = ModelCard(SPEC, numerics, gates)
    assert ModelCard.from_json(card.to_json()) == card


def test_of_several_verdicts_the_first_that_failed_decides() -> None:
    assert ModelCard(SPEC).gate is None
    assert ModelCard(SPEC, gates=(VERDICT,)).gate is VERDICT
    assert ModelCard(SPEC, gates=(VERDICT, FAILED)).gate is FAILED


def test_a_card_of_the_first_schema_is_read_with_its_one_verdict() -> None:
    five = {name: getattr(VERDICT, name) for name in ("passed", "cosine_min", "cosine_mean", "agreement", "images")}
    for gate, gates in ((None, ()), (five, (VERDICT,))):
        fields = json.loads(edited(schema="deepir.model/1", gate=gate))
        del fields["gates"]
        assert ModelCard.from_json(json.dumps(fields)) == ModelCard(SPEC, gates=gates)


def test_all_numerics_share_the_fingerprint() -> None:
    texts = [ModelCard(SPEC, numerics).to_json() for numerics in Numerics]
    assert {json.loads(text)["fingerprint"] for text in texts} == {SPEC.fingerprint}


def test_a_description_that_was_altered_is_refused() -> None:
    altered = {**json.loads(SPEC.to_json()), "dim": 64}
    with pytest.raises(ModelError, match=f"{SPEC.fingerprint}.*export the model again"):
        ModelCard.from_json(edited(spec=altered))


def test_another_schema_is_refused_with_its_name() -> None:
    with pytest.raises(ModelError, match=r"deepir.model/3"):
        ModelCard.from_json(edited(schema="deepir.model/3"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        edited(numerics="int4"),
        edited(gates=[{"passed": True}]),
        edited(spec={}),
        edited(gates=[1]),
    ],
)
def test_a_damaged_card_is_refused_with_the_cure(text: str) -> None:
    with pytest.raises(ModelError, match=r"cannot be read .*: export the model again"):
        ModelCard.from_json(text)
