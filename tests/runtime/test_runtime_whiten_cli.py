"""The options that fit a map for an index: what they mean together, and what they refuse."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from deepir.runtime import Index

Command = Callable[..., Result]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--dim", 3), ("pca", 3)),
        (("--dim", 3, "--reduce", "pca"), ("pca", 3)),
        (("--dim", 3, "--reduce", "prefix"), ("prefix", 3)),
        (("--whiten", "--dim", 3), ("whitening", 3)),
        (("--whiten",), ("whitening", 8)),
    ],
)
def test_the_options_say_which_map_is_fitted(
    words: tuple[object, ...],
    expected: tuple[str, int],
    tmp_path: Path,
    model: Path,
    catalogue: Path,
    deepir_index: Command,
) -> None:
    result = deepir_index("build", tmp_path / "i.usearch", catalogue, "--model", model, *words)
    assert result.exit_code == 0, result.stderr
    whitening = Index.open(tmp_path / "i.usearch").whitening
    assert whitening is not None
    assert (whitening.kind, whitening.dim) == expected
    assert f"{expected[0]}: 8 to {expected[1]} values" in result.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--reduce", "prefix"), "give it with --dim"),
        (("--reduce", "pca"), "give it with --dim"),
        (("--whiten", "--dim", 3, "--reduce", "prefix"), "no --whiten"),
        (("--whiten-power", 0.2), "--whiten-images DIR with it"),
        (("--whiten-power", 0.2, "--dim", 3), "--whiten-images DIR with it"),
    ],
)
def test_options_without_effect_are_refused(
    words: tuple[object, ...], part: str, tmp_path: Path, model: Path, catalogue: Path, deepir_index: Command
) -> None:
    result = deepir_index("build", tmp_path / "i.usearch", catalogue, "--model", model, *words)
    assert (result.exit_code, result.stderr.count("\n"), part in result.stderr) == (2, 1, True)
    assert not list(tmp_path.glob("i.usearch*"))
