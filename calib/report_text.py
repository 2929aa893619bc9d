"""The report of a calibration for a terminal."""

from collections.abc import Sequence

from deepir.calib.report import BlockRow, Findings, TensorRow
from deepir.gate import verdict_text
from deepir.spec import Numerics


def findings_text(findings: Findings) -> str:
    """Everything in lines and aligned columns."""
    parts = [
        [headline(findings), *facts(findings)],
        [f"{verdict.program}: {verdict_text(verdict)}" for verdict in findings.verdicts],
        [f"damage of each block to the descriptor, {findings.damage_from}"],
        _columns(["block", "damage", "", "convolutions"], [_block_cells(row) for row in findings.blocks]),
        _columns(["tensor", "read by", "range", "beyond"], [_tensor_cells(row) for row in findings.tensors]),
        _columns(
            ["tried", "cosine min", "mean"],
            [[trial.recipe, f"{trial.cosine_min:.4f}", f"{trial.cosine_mean:.4f}"] for trial in findings.trials],
        ),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def headline(findings: Findings) -> str:
    """One sentence: what the file is, and whether it passed."""
    if not findings.verdicts:
        return f"{findings.file} was never judged"
    blocks = sum(row.kept > 0 for row in findings.blocks)
    if findings.numerics is not Numerics.INT8:
        what = f"computes in {findings.numerics.name}, because no INT8 form passed the gate, and"
    elif blocks:
        what = f"is INT8 but for {blocks} of {len(findings.blocks)} blocks, and"
    else:
        what = "is INT8 and"
    return f"{findings.file} {what} {'passed the gate' if findings.passed else 'FAILED the gate'}"


def facts(findings: Findings) -> list[str]:
    """How the file was made, a sentence each."""
    counts = ", ".join(f"{count} {name}" for name, count in findings.pictures.items())
    return [
        f"Made of {findings.model} by {findings.quantiser}, ranges by {findings.method}, "
        f"{findings.share:.0%} of the convolutions INT8",
        f"{findings.equalised} tensors equalised, biases of {findings.corrected} convolutions corrected",
        f"Ranges from {findings.measured_on} pictures, judged on {findings.judged_on} others"
        + (f" ({counts})" if counts else ""),
    ]


def damage_words(damage: float | None) -> str:
    """Six digits after the point: the damage of a block is small."""
    return "-" if damage is None else f"{damage:+.6f}"


def kept_words(row: BlockRow) -> str:
    """What of a block is FP16."""
    if row.kept in (0, row.convolutions):
        return "FP16" if row.kept else ""
    return f"{row.kept} FP16"


def beyond_words(beyond: float | None) -> str:
    """The share of a tensor's values beyond its range."""
    if not beyond:
        return "-" if beyond is None else "0"
    return f"{beyond:.4%}" if beyond >= 1e-6 else "<0.0001%"


def _block_cells(row: BlockRow) -> list[str]:
    return [row.block, damage_words(row.damage), kept_words(row), str(row.convolutions)]


def _tensor_cells(row: TensorRow) -> list[str]:
    return [row.tensor, ", ".join(row.readers), f"{row.largest:.4g}", beyond_words(row.beyond)]


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    ]
