"""Products: draws the front of every package; variants of a brand share the design and differ in flavour."""

from collections.abc import Iterable
from dataclasses import dataclass

from artwork import print_ground, print_pattern
from catalogue import FAMILIES, Product
from colours import GOLD, WHITE, Colour, Image, Palette, Rng, draw_palette, ink_on, mix, pick, rng_for
from labels import BANDS, Layout, draw_layout, print_band, to_pixels
from lettering import FONTS, print_badge, print_bar_code, print_small_print, print_table, print_text
from motifs import draw_motif
from shapes import SHAPES, Package, shape_package

PACKAGE_HEIGHT = 320
CLAIMS = ("NEW", "BIO", "+20%", "XL", "ECO", "PURE")


@dataclass(frozen=True, slots=True)
class Design:
    """What all variants of a brand share."""

    brand: str
    palette: Palette
    layout: Layout
    shape: str
    aspect: float
    font: int
    band: str
    panel: Colour
    claim: str | None
    print_seed: int


def draw_packages(products: Iterable[Product], *, seed: int) -> tuple[Package, ...]:
    return tuple(draw_package(product, seed=seed) for product in products)


def draw_package(product: Product, *, seed: int) -> Package:
    """Draw one package; the same product and seed give the same pixels."""
    design = draw_design(product.brand, rng_for(seed, "brand", product.brand))
    front = _print_brand(design, seed=seed)
    rng = rng_for(seed, "product", product.label)
    _print_flavour(front, product, design, rng)
    _print_facts(front, product, design, rng)
    return shape_package(product.label, front, design.shape, cap=design.palette.accent, rng=rng)


def draw_design(brand: str, rng: Rng) -> Design:
    palette = draw_palette(rng)
    shape = pick(rng, SHAPES)
    widest = 0.68 if shape == "bottle" else 1.2
    return Design(
        brand=brand,
        palette=palette,
        layout=draw_layout(rng),
        shape=shape,
        aspect=rng.uniform(0.5, widest),
        font=pick(rng, FONTS),
        band=pick(rng, BANDS),
        panel=pick(rng, (WHITE, GOLD, palette.accent, palette.second)),
        claim=pick(rng, CLAIMS) if rng.uniform() < 0.4 else None,
        print_seed=int(rng.integers(2**31)),
    )


def _print_brand(design: Design, *, seed: int) -> Image:
    rng = rng_for(seed, "print", str(design.print_seed))
    front = print_ground(rng, round(PACKAGE_HEIGHT * design.aspect), PACKAGE_HEIGHT, design.palette)
    for _ in range(rng.integers(1, 4)):
        colours = (design.palette.second, design.palette.accent, mix(design.palette.ground, WHITE, 0.4))
        print_pattern(rng, front, pick(rng, colours))
    return front


def _print_flavour(front: Image, product: Product, design: Design, rng: Rng) -> None:
    motif, colour = FAMILIES[product.family][product.flavour]
    print_band(front, design.band, design.layout, colour=colour)
    width, height = front.shape[1], front.shape[0]
    across, down, radius = design.layout.picture
    centre, size = (round(across * width), round(down * height)), round(radius * min(width, height))
    draw_motif(front, motif, centre, size, colour=colour, rng=rng)
    box = to_pixels(design.layout.flavour, front)
    ground = colour if design.band == "strip" else mix(colour, (0, 0, 0), 0.5)
    print_text(front, product.flavour.upper(), box, colour=ink_on(ground), font=FONTS[1], edge=ground)


def _print_facts(front: Image, product: Product, design: Design, rng: Rng) -> None:
    layout = design.layout
    brand_box = to_pixels(layout.brand, front)
    layout.print_panel(front, brand_box, design.panel)
    print_text(front, product.brand.capitalize(), brand_box, colour=ink_on(design.panel), font=design.font)
    if layout.bar_code is not None:
        print_bar_code(front, to_pixels(layout.bar_code, front), rng=rng)
    if layout.table is not None:
        print_table(front, to_pixels(layout.table, front), rng=rng)
    ink = ink_on(design.palette.ground)
    print_small_print(front, to_pixels(layout.small_print, front), colour=ink, rng=rng)
    weight_box = to_pixels(layout.weight, front)
    print_text(front, product.weight, weight_box, colour=ink, font=FONTS[0], edge=design.palette.ground)
    if design.claim is not None:
        centre = round(front.shape[1] * layout.badge[0]), round(front.shape[0] * layout.badge[1])
        print_badge(front, centre, round(0.1 * PACKAGE_HEIGHT), design.claim, design.palette.accent)
