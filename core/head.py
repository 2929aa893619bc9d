"""How the maps of a trunk become one descriptor: pooling, regions, fusion of layers, combination of resolutions."""

from dataclasses import dataclass

from deepir.errors import SpecError

POOLINGS = ("max", "mean", "gem")
GRIDS = ("image", "map", "map+whole")
COMBINATIONS = ("sum", "max")

FITTED_FUSIONS = ("concat", "concat-weighted", "eltwise", "rmac-eltwise")
"""Join middle layers by whitenings that are fitted, not learnt (method.md 4.1)."""

STUDENT_FUSIONS = ("none", "pca-concat-pca", "1x1conv-eltwise-pca", "concat-pca", "concat-pca-relu")
"""What a student can have: they end in a layer that learns (method.md 4.3)."""

FUSIONS = (*STUDENT_FUSIONS, *FITTED_FUSIONS, "fpn", "fpn0")

_LARGEST_LEVELS = 8
_MOST_MIDDLE = 3
_WHOLE_MAP = {"mac": "max", "spoc": "mean", "gem": "gem"}
_REGIONAL = {"rmac": "max", "r-spoc": "mean", "r-gem": "gem"}

POOLING_NAMES = (*_REGIONAL, *_WHOLE_MAP)
"""Names that `parse_pooling` knows: R-MAC, its like over averages and generalised means, and their whole-map forms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What follows the trunk; checked when it is made.

    Attributes:
        pooling: What a region's vector is of its cells: `max`, `mean`, or `gem`, the generalised mean.
        levels: Levels of the region grid; 0 makes the whole map the only region (MAC, SPoC, GeM).
        grid: Where the grid is laid: `image` (pixels, as Deep Image Retrieval), `map` (cells, as Tolias), or
            `map+whole`, which puts the whole map first (method.md 1.1).
        normalise_regions: L2 between pooling and whitening; models of dirtorch have none.
        fusion: How maps of the trunk's middle stages join the last one's (method.md 4.1 and 4.3, `fpn` 5).
        middle: Those stages in the order of their vectors: 3 is res4 of a ResNet, 2 res3, 1 res2.
        combine: How the descriptors of several resolutions become one: their `sum` or largest values (`max`).
    """

    pooling: str = "max"
    levels: int = 2
    grid: str = "image"
    normalise_regions: bool = True
    fusion: str = "none"
    middle: tuple[int, ...] = ()
    combine: str = "sum"

    def __post_init__(self) -> None:
        for name, choices in (("pooling", POOLINGS), ("grid", GRIDS), ("fusion", FUSIONS), ("combine", COMBINATIONS)):
            check_choice(name, getattr(self, name), choices)
        check_range("levels", self.levels, 0, _LARGEST_LEVELS)
        if len(self.middle) > _MOST_MIDDLE or bool(self.middle) != (self.fusion != "none"):
            message = (
                f"the fusion {self.fusion} with the middle stages {self.middle} cannot be: a fusion needs one to "
                f"{_MOST_MIDDLE} stages, for example --fusion concat --middle 3,2, and none takes none"
            )
            raise SpecError(message)
        if len(self.middle) > 1 and self.fusion not in FITTED_FUSIONS:
            message = f"the fusion {self.fusion} takes one middle stage, got {self.middle}"
            raise SpecError(message)
        if not self.normalise_regions and self.levels:
            message = "vectors of several regions are only comparable at length 1: levels above 0 need them normalised"
            raise SpecError(message)


def parse_pooling(name: str, levels: int) -> tuple[str, int]:
    """`rmac`, `r-spoc`, `r-gem` over `levels` levels, or `mac`, `spoc`, `gem` of the whole map: (pooling, levels).

    Raises:
        SpecError: Another name.
    """
    if name in _WHOLE_MAP:
        return _WHOLE_MAP[name], 0
    if name in _REGIONAL:
        return _REGIONAL[name], levels
    message = f"--pooling must be one of {', '.join(POOLING_NAMES)}, got {name!r}"
    raise SpecError(message)


def parse_stages(text: str | None) -> tuple[int, ...]:
    """Read `3,2` as the stages 3 and 2; nothing gives none.

    Raises:
        SpecError: Anything else.
    """
    if not text:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        message = f"expected stages such as 3 or 3,2, got {text!r}"
        raise SpecError(message)
    return tuple(int(part) for part in parts)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise SpecError unless `value` is one of `choices`."""
    if value not in choices:
        message = f"{name} must be one of {', '.join(choices)}, got {value!r}"
        raise SpecError(message)


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Raise SpecError unless `value` is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        message = f"{name} must be a whole number between {low} and {high}, got {value}"
        raise SpecError(message)
