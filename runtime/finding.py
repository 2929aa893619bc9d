"""What the doctor found: a question, its answer, and the one command that mends what is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass

from deepir.errors import DeepIRError, MissingDependency, SpecError
from deepir.runtime.index_verify import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor.

    Attributes:
        name: What was looked at.
        status: `warn` where things work and something is missing or odd; `fail` where they do not.
        text: What was found.
        cure: The one command that mends it; empty exactly where nothing is to be mended.
        error: Whose exit code the doctor ends with where this fails.
    """

    name: str
    status: Status
    text: str
    cure: str = ""
    error: type[DeepIRError] = MissingDependency

    def __post_init__(self) -> None:
        if (self.status == "ok") == bool(self.cure):
            message = f"the finding {self.name} is {self.status!r} and its command is {self.cure!r}"
            raise SpecError(message)


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name=name, status="ok", text=text)


def warn(name: str, text: str, cure: str) -> Finding:
    """It works, and something is missing or odd."""
    return Finding(name=name, status="warn", text=text, cure=cure)


def fail(name: str, text: str, cure: str, error: type[DeepIRError] = MissingDependency) -> Finding:
    """It does not work."""
    return Finding(name=name, status="fail", text=text, cure=cure, error=error)


def findings_text(findings: Iterable[Finding]) -> str:
    """A line for each, and below what is to be mended its command."""
    listed = list(findings)
    width = max((len(finding.name) for finding in listed), default=0)
    lines: list[str] = []
    for finding in listed:
        lines.append(f"{finding.status:4}  {finding.name:{width}}  {finding.text}")
        if finding.cure:
            lines.append(f"{'':4}  {'':{width}}  -> {finding.cure}")
    return "\n".join(lines)


def worst(findings: Iterable[Finding]) -> Finding | None:
    """The failure that decides the exit code: the first of the machine's own, else the first; None for no failure."""
    failed = [finding for finding in findings if finding.status == "fail"]
    ours = [finding for finding in failed if finding.error is MissingDependency]
    return next(iter([*ours, *failed]), None)
