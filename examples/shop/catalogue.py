"""The catalogue: invented brands, their flavours and the labels of all products, without a single pixel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from colours import Colour, Rng, rng_for

# Which picture a flavour shows, and in which colour.
Flavour: TypeAlias = tuple[str, Colour]

FAMILIES: dict[str, dict[str, Flavour]] = {
    "juice": {
        "lemon": ("citrus", (240, 205, 40)),
        "orange": ("citrus", (240, 130, 25)),
        "lime": ("citrus", (130, 190, 50)),
        "cherry": ("berries", (175, 20, 45)),
        "blueberry": ("berries", (60, 65, 150)),
        "apple": ("apple", (120, 175, 45)),
        "peach": ("apple", (245, 160, 110)),
    },
    "breakfast": {
        "oat": ("grain", (205, 165, 95)),
        "honey": ("drops", (225, 155, 30)),
        "cocoa": ("biscuit", (95, 55, 35)),
        "raspberry": ("berries", (205, 40, 90)),
        "vanilla": ("flower", (240, 220, 150)),
        "hazelnut": ("biscuit", (165, 105, 60)),
    },
    "hot-drinks": {
        "espresso": ("cup", (70, 40, 30)),
        "mocha": ("cup", (140, 85, 60)),
        "mint": ("leaves", (60, 150, 105)),
        "chai": ("cup", (200, 120, 55)),
        "rooibos": ("leaves", (180, 70, 40)),
        "camomile": ("flower", (245, 225, 110)),
    },
    "savoury": {
        "tomato": ("apple", (205, 45, 30)),
        "basil": ("leaves", (50, 120, 50)),
        "cheddar": ("wedge", (240, 170, 45)),
        "tuna": ("fish", (70, 105, 150)),
        "salmon": ("fish", (235, 125, 100)),
        "pepper": ("drops", (70, 70, 75)),
    },
    "household": {
        "ocean": ("drops", (40, 120, 200)),
        "pine": ("leaves", (25, 95, 75)),
        "lavender": ("flower", (145, 110, 195)),
        "rose": ("flower", (230, 120, 150)),
        "citrus": ("citrus", (250, 190, 45)),
        "alpine": ("peaks", (110, 160, 200)),
    },
}
ONSETS = ("n", "k", "br", "v", "l", "m", "s", "t", "dr", "f", "gr", "p", "h", "z", "st", "r", "b", "y")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ei")
CODAS = ("", "", "n", "r", "l", "x", "s", "m", "vik", "dan")
WEIGHTS = ("100g", "250g", "330ml", "400g", "500g", "750ml", "1kg")


@dataclass(frozen=True, slots=True)
class Product:
    """One thing to buy: the name of its folder and what is printed on it."""

    label: str
    brand: str
    family: str
    flavour: str
    weight: str


def invent_catalogue(counts: Mapping[str, int], *, seed: int) -> dict[str, tuple[Product, ...]]:
    """Return, for each set named in counts, that many products; no two sets share a brand."""
    rng = rng_for(seed, "catalogue")
    taken: set[str] = set()
    return {name: _invent_set(count, rng, taken) for name, count in counts.items()}


def _invent_set(count: int, rng: Rng, taken: set[str]) -> tuple[Product, ...]:
    products: list[Product] = []
    while len(products) < count:
        brand = _invent_brand(rng, taken)
        products.extend(_invent_variants(brand, rng))
    return tuple(products[:count])


def _invent_brand(rng: Rng, taken: set[str]) -> str:
    while True:
        syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.integers(2, 4))]
        brand = "".join(syllables) + str(rng.choice(CODAS))
        if brand not in taken:
            taken.add(brand)
            return brand


def _invent_variants(brand: str, rng: Rng) -> list[Product]:
    family = str(rng.choice(list(FAMILIES)))
    weight = str(rng.choice(WEIGHTS))
    flavours = rng.choice(list(FAMILIES[family]), size=rng.integers(2, 5), replace=False)
    return [Product(f"{brand}-{flavour}-{weight}", brand, family, str(flavour), weight) for flavour in flavours]
