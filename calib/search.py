"""Which recipe: methods are tried on measured pictures, the best goes before the gate, then blocks stay FP16."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepir.calib.bias import bias_corrections
from deepir.calib.blocks import find_blocks
from deepir.calib.derive import derive
from deepir.calib.equalise import equalise, find_factors
from deepir.calib.gate import judge_file, judged_text, passed
from deepir.calib.images import CalibrationSet
from deepir.calib.keep import named_convolutions
from deepir.calib.onnx_file import Feeds, describe, prepared, write_card
from deepir.calib.programs import TrialDescriber
from deepir.calib.quantise import place
from deepir.calib.ranges import measure_statistics, ranges_by, saturation
from deepir.calib.recipe import Recipe
from deepir.calib.record import BlockDamage, Trial
from deepir.calib.sensitivity import block_damage, fewest_kept
from deepir.card import GateVerdict, ModelCard
from deepir.descriptors import Descriptors
from deepir.gate import GateLimits
from deepir.runtime.progress import Report
from deepir.spec import Numerics

TRIED_ON = 32
"""Measured pictures on which recipes are compared, and what blocks damage."""

_CORRECTED_ON = 24
_MOST_KEPT = 0.5


@dataclass(slots=True)
class Found:
    """A recipe, the INT8 model that it makes, and the verdicts on it."""

    recipe: Recipe
    proto: Any
    verdicts: tuple[GateVerdict, ...]


class RecipeSearch:
    """Looks for the recipe of one FP32 model.

    Attributes:
        trials: What was tried, in order.
        damage: By block, the worst first; empty until it was asked for.
        saturation: By tensor, of the best recipe; see `deepir.calib.ranges.saturation`.
    """

    def __init__(
        self,
        proto: Any,
        card: ModelCard,
        images: CalibrationSet,
        reference_nd: Descriptors,
        report: Report = lambda _: None,
    ) -> None:
        """Prepare a search.

        Args:
            proto: The FP32 onnx.ModelProto.
            card: Of that model.
            images: The measured pictures decide between recipes, the others judge the winner.
            reference_nd: FP32 descriptors of the pictures that judge.
            report: Is told what was tried.
        """
        self._proto = proto
        self._card = dataclasses.replace(card, numerics=Numerics.INT8)
        self._images = images
        self._reference_nd = reference_nd
        self._report = report
        self._tried_on = for_trials(images.measure)
        self._tried_nd = describe(proto, card, self._tried_on)
        self._describe_tried = TrialDescriber(self._tried_on, report)
        self.trials: list[Trial] = []
        self.damage: tuple[BlockDamage, ...] = ()
        self.saturation: dict[str, float] = {}

    def best(self, methods: Sequence[str]) -> Recipe:
        """The recipe whose descriptors are nearest to FP32 on the pictures for trials.

        Raises:
            ModelError: No convolutions, or values that are not finite.
        """
        few = measure_statistics(self._proto, place(self._proto).tensors, self._batches(self._tried_on))
        factors = find_factors(self._proto, few)
        balanced = equalise(self._proto, factors)
        statistics = measure_statistics(balanced, place(balanced).tensors, self._batches(self._images.measure))
        recipes = [Recipe(method=method, ranges=ranges_by(statistics, method), factors=factors) for method in methods]
        best = max(recipes, key=self._try)
        self.saturation = {name: saturation(seen, best.ranges[name]) for name, seen in statistics.items()}
        corrected = self._corrected(best)
        if self._try(corrected) < max(trial.cosine_mean for trial in self.trials):
            return best
        return corrected

    def with_float_skips(self, recipe: Recipe) -> Recipe | None:
        """The same with the skip inputs of residual sums in float; None where the model has no such sums.

        All convolutions stay INT8 so; what is rounded along the skips adds up from block to block.
        """
        if place(self._proto, skips=False).uses == place(self._proto).uses:
            return None
        loosened = dataclasses.replace(recipe, skips=False)
        return self._corrected(loosened) if recipe.biases else loosened

    def judged(self, recipe: Recipe, limits: GateLimits) -> Found:
        """Put a recipe before the gate."""
        return self.judged_model(derive(self._proto, recipe), recipe, limits)

    def judged_model(self, proto: Any, recipe: Recipe, limits: GateLimits) -> Found:
        """Put an INT8 model before the gate, and tell what came out."""
        write_card(proto, self._card)
        verdicts = judge_file(proto, self._card, self._images, self._reference_nd, limits, self._report)
        for verdict in verdicts:
            self._report(f"{_words(recipe)}: {judged_text(verdict, limits)}")
        return Found(recipe, proto, verdicts)

    def rescued(self, recipe: Recipe, limits: GateLimits) -> Found | None:
        """The same with as few convolutions in FP16 as let it pass; None where half of them would not do."""
        self._measure_damage(recipe)
        found: dict[tuple[str, ...], Found] = {}

        def passes(kept: tuple[str, ...]) -> bool:
            mixed = dataclasses.replace(recipe, kept=kept)
            found[kept] = self.judged(self._corrected(mixed) if recipe.biases else mixed, limits)
            return passed(found[kept].verdicts)

        most = int(sum(len(block.convolutions) for block in self.damage) * _MOST_KEPT)
        kept = fewest_kept(self.damage, passes, most=most)
        return None if kept is None else found[kept]

    def kept(self, recipe: Recipe, keep: int | tuple[str, ...]) -> Recipe:
        """The same with a number of the worst blocks in FP16, or with those named.

        Raises:
            OptionError: A name of no block and no convolution.
        """
        if isinstance(keep, int):
            if keep:
                self._measure_damage(recipe)
            names = tuple(name for damage in self.damage[:keep] for name in damage.convolutions)
        else:
            names = named_convolutions(keep, find_blocks(self._proto))
        mixed = dataclasses.replace(recipe, kept=names)
        return self._corrected(mixed) if recipe.biases and names else mixed

    def _measure_damage(self, recipe: Recipe) -> None:
        if not self.damage:
            self.damage = tuple(
                measure_damage(self._proto, self._card, recipe, self._describe_tried, self._tried_nd, self._report)
            )

    def _corrected(self, recipe: Recipe) -> Recipe:
        """The same with biases for its own quantisation, from other pictures than the trials where there are some."""
        tried = set(self._tried_on)
        others = [path for path in self._images.measure if path not in tried] or self._images.measure
        bare = dataclasses.replace(recipe, biases={})
        balanced = equalise(self._proto, recipe.factors)
        biases = bias_corrections(balanced, derive(self._proto, bare), self._batches(others[:_CORRECTED_ON]))
        return dataclasses.replace(recipe, biases=biases)

    def _try(self, recipe: Recipe) -> float:
        found_nd = self._describe_tried(_model(self._proto, self._card, recipe), self._card)
        cosines = np.sum(found_nd * self._tried_nd, axis=1)
        self.trials.append(Trial(_words(recipe), round(float(cosines.min()), 6), round(float(cosines.mean()), 6)))
        self._report(f"tried {_words(recipe)}: cosine min {cosines.min():.4f} mean {cosines.mean():.4f}")
        return self.trials[-1].cosine_mean

    def _batches(self, paths: Sequence[Path]) -> Callable[[], Iterable[Feeds]]:
        return lambda: prepared(paths, self._card)


def for_trials(pictures: Sequence[Path]) -> tuple[Path, ...]:
    """TRIED_ON of the pictures, at even steps, because the first of a calibration's are the most unusual."""
    count = min(len(pictures), TRIED_ON)
    return tuple(pictures[len(pictures) * number // count] for number in range(count))


def measure_damage(
    proto: Any,
    card: ModelCard,
    recipe: Recipe,
    describe_with: TrialDescriber,
    reference_nd: Descriptors,
    report: Report = lambda _: None,
) -> list[BlockDamage]:
    """What each block of an FP32 model costs its INT8 form, the worst first; see `deepir.calib.sensitivity`.

    Args:
        proto: The FP32 model.
        card: Of it or of its INT8 form.
        recipe: Of the INT8 form; what it keeps in FP16 counts as INT8 here.
        describe_with: Describes some pictures.
        reference_nd: Their FP32 descriptors.
        report: Is told how far it is.

    Raises:
        InputError: A picture that cannot be read.
    """
    int8 = dataclasses.replace(card, numerics=Numerics.INT8)
    return block_damage(
        lambda kept: _model(proto, int8, dataclasses.replace(recipe, kept=kept)),
        lambda made: describe_with(made, int8),
        reference_nd,
        find_blocks(proto),
        report,
    )


def _model(proto: Any, card: ModelCard, recipe: Recipe) -> Any:
    made = derive(proto, recipe)
    write_card(made, card)
    return made


def _words(recipe: Recipe) -> str:
    """A recipe for people: "mse, equalised, biases corrected, 3 convolutions FP16"."""
    parts = {
        "equalised": recipe.factors,
        "biases corrected": recipe.biases,
        "skips in float": not recipe.skips,
        f"{len(recipe.kept)} convolutions FP16": recipe.kept,
    }
    return ", ".join([recipe.method, *(words for words, present in parts.items() if present)])
