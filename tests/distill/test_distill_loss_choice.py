"""Losses and miners by name: each is built and falls into use, unknown names are answered with close ones."""

import pytest
import torch
from torch.nn import functional

from deepir.distill.loss_choice import build_loss, build_miner, takes_pairs
from deepir.errors import MissingDependency, OptionError, ShapeError

OWN = [
    "ap",
    "tap",
    "tap-simplified",
    "triplet",
    "triplet-caffe",
    "triplet-logexp",
    "contrastive",
    "contrastive-squared",
    "lifted",
    "softmax",
    "softmax-normalized",
]
LIBRARY = [
    "AngularLoss",
    "ArcFaceLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "DynamicSoftMarginLoss",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "HistogramLoss",
    "InstanceLoss",
    "IntraPairVarianceLoss",
    "LargeMarginSoftmaxLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NPairsLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "P2SGradLoss",
    "PNPLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
    "SupConLoss",
    "ThresholdConsistentMarginLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
]
MINERS = [
    "AngularMiner",
    "BatchEasyHardMiner",
    "BatchHardMiner",
    "DistanceWeightedMiner",
    "HDCMiner",
    "MultiSimilarityMiner",
    "PairMarginMiner",
    "TripletMarginMiner",
    "UniformHistogramMiner",
]
DESCRIPTORS = functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)
LABELS = torch.arange(16) % 4


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("name", OWN + LIBRARY)
def test_a_loss_by_name_gives_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    loss = build_loss(name, classes=4, dim=8)
    rows = DESCRIPTORS.clone().requires_grad_()
    value = loss(rows, LABELS)
    value.backward()
    assert value.ndim == 0
    assert value.isfinite()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert rows.grad.any()
    if takes_pairs(name):
        miner = build_miner("MultiSimilarityMiner")
        assert miner is not None
        assert loss(DESCRIPTORS, LABELS, miner(DESCRIPTORS, LABELS)).isfinite()


def test_a_loss_sees_the_pairs_that_a_miner_chose() -> None:
    loss = build_loss("ContrastiveLoss", classes=4, dim=8)
    one = torch.tensor([0])
    chosen = (one, torch.tensor([4]), one, torch.tensor([1]))
    assert loss(DESCRIPTORS, LABELS, chosen) != loss(DESCRIPTORS, LABELS)


@pytest.mark.parametrize("name", MINERS)
def test_a_miner_by_name_chooses_from_the_batch(name: str) -> None:
    miner = build_miner(name)
    assert miner is not None
    pairs = miner(DESCRIPTORS, LABELS)
    assert len(pairs) in {3, 4}
    assert all(int(places.max()) < 16 for places in pairs if len(places))


def test_no_miner_is_a_choice() -> None:
    assert build_miner("none") is None


def test_the_order_of_the_batch_is_none_of_smoothaps_business() -> None:
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    loss = build_loss("SmoothAPLoss", classes=4, dim=8)
    in_order = LABELS.argsort(stable=True)
    expected = loss(DESCRIPTORS[in_order], LABELS[in_order])
    torch.testing.assert_close(loss(DESCRIPTORS, LABELS), expected)
    torch.testing.assert_close(loss(DESCRIPTORS[order], LABELS[order]), expected)
    # what the library alone would make of an order that is not label after label
    assert not torch.isclose(loss.loss(DESCRIPTORS, LABELS), expected)


def test_smoothap_says_that_it_needs_equal_shares() -> None:
    with pytest.raises(ShapeError, match="equally many pictures of each label in a batch, got 3 to 4"):
        build_loss("SmoothAPLoss", classes=4, dim=8)(DESCRIPTORS[:15], LABELS[:15])


def test_a_loss_that_learns_has_its_parameters_in_sight() -> None:
    for name in ("softmax", "ProxyAnchorLoss", "CosFaceLoss", "SubCenterArcFaceLoss", "P2SGradLoss"):
        shapes = [tuple(value.shape) for value in build_loss(name, classes=4, dim=8).parameters()]
        assert any(8 in shape for shape in shapes), name
    assert not list(build_loss("ap", classes=4, dim=8).parameters())


def test_labels_that_do_not_fit_are_refused_for_a_library_loss_too() -> None:
    with pytest.raises(ShapeError, match="got 3 labels for 16"):
        build_loss("ArcFaceLoss", classes=4, dim=8)(DESCRIPTORS, LABELS[:3])


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("SmoothAP", "SmoothAPLoss"),
        ("multisimilarityloss", "MultiSimilarityLoss"),
        ("triplets", "triplet"),
        ("AP", "ap"),
        ("nonsense!", "there are ap, tap,"),
        ("", "there are ap, tap,"),
        ("BaseMetricLossFunction", "there is no loss"),
        ("CrossBatchMemory", "there is no loss"),
        ("MultipleLosses", "there is no loss"),
        ("__class__", "there is no loss"),
    ],
)
def test_an_unknown_loss_is_answered_with_close_names(name: str, close: str) -> None:
    with pytest.raises(OptionError, match=close):
        build_loss(name, classes=4, dim=8)


@pytest.mark.parametrize(
    ("name", "close"),
    [("BatchHard", "BatchHardMiner"), ("None", "none"), ("BaseMiner", "did you mean"), ("?", "there are none,")],
)
def test_an_unknown_miner_is_answered_with_close_names(name: str, close: str) -> None:
    with pytest.raises(OptionError, match=close):
        build_miner(name)


def test_our_own_losses_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> object:
        raise MissingDependency(name)

    monkeypatch.setattr("deepir.distill.loss_choice.need", refuse)
    for name in OWN:
        build_loss(name, classes=4, dim=8)
    with pytest.raises(MissingDependency):
        build_loss("ArcFaceLoss", classes=4, dim=8)
