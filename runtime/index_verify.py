"""What is right and wrong with an index file and all that belongs to it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deepir.errors import IndexFileError
from deepir.files import file_sha256
from deepir.runtime.changes import from_record
from deepir.runtime.index_file import NoFooterError, Opened, backup_of, file_bytes, read_index
from deepir.runtime.index_footer import Footer, ModelReference
from deepir.runtime.index_foreign import probe
from deepir.runtime.items import ItemTable
from deepir.runtime.journal import Recorded, journal_of, scan_journal
from deepir.runtime.store import is_marked

Status = Literal["ok", "warn", "fail"]

_DEEP = "deepir.runtime.index_verify_deep"
_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Check:
    """A question and its answer.

    Attributes:
        name: What was looked at.
        status: `warn` where the index can be used and something is missing or odd; `fail` where it cannot be trusted.
        text: What was found, and the cure where there is one.
    """

    name: str
    status: Status
    text: str


def verify_index(path: Path, *, deep: bool = False) -> list[Check]:
    """Look at an index, its journal, the generation before it and its model; usearch reads nothing unless `deep`.

    Args:
        path: The index.
        deep: Also load it in a process of its own, search for stored views, and look for the pictures.

    Raises:
        InputError: The file is missing or unreadable.
    """
    path = path.resolve() if path.is_symlink() else path
    try:
        opened = read_index(path)
    except NoFooterError as error:
        return _foreign_checks(path, error)
    except IndexFileError as error:
        return [Check("checksum", "fail", str(error))]
    checks = [*_file_checks(path, opened), *_journal_checks(path, opened), *_past_checks(path, opened)]
    checks += [_model_check(path, "model", opened.footer.model)]
    if opened.footer.references is not None:
        checks.append(_model_check(path, "references", opened.footer.references))
    if deep and any(check.status == "fail" for check in checks):
        checks.append(Check("load", "warn", "not tried, for a check above failed"))
    elif deep:
        checks += _deep_checks(path)
    return checks


def checks_text(checks: list[Check]) -> str:
    """The checks as a table."""
    width = max((len(check.name) for check in checks), default=0)
    return "\n".join(f"{check.status:4}  {check.name:{width}}  {check.text}" for check in checks)


def _file_checks(path: Path, opened: Opened) -> Iterator[Check]:
    footer, size = opened.footer, path.stat().st_size
    yield Check("checksum", "ok", f"SHA-256 of {size} bytes ({size / 1e6:.2f} MB): {opened.digest[:12]}")
    yield Check("footer", "ok", f"generation {footer.generation}, {footer.codes.dtype}, usearch {footer.usearch}")
    try:
        items = ItemTable.from_sections(opened.sections)
    except IndexFileError as error:
        yield Check("items", "fail", str(error))
        return
    stored, _ = np.frombuffer(opened.usearch[:8], np.uint32).tolist() if len(opened.usearch) >= 8 else (0, 0)
    counts = f"{len(items)} views of {len(items.counts())} labels, {footer.removed} removed, {stored} vectors"
    fits = len(items) <= stored <= len(items) + footer.removed and footer.next_key > int(items.keys.max(initial=0))
    yield Check("items", "ok" if fits else "fail", counts if fits else f"{counts}, which does not add up")


def _journal_checks(path: Path, opened: Opened) -> Iterator[Check]:
    journal = journal_of(path)
    if not journal.exists():
        yield Check("journal", "ok", "no change since the last save")
        return
    recorded = scan_journal(journal)
    footer, count = opened.footer, len(recorded.records)
    cure = f"deepir-index repair {path}"
    if recorded.damaged:
        yield Check("journal", "fail", f"damaged at byte {recorded.place.end}, behind {count} records: {cure}")
        return
    if recorded.continues == opened.digest or not recorded.records:
        yield _records_check(recorded, footer, cure)
    elif (recorded.continues, str(recorded.place)) == (footer.previous, footer.absorbed):
        yield Check("journal", "ok", f"{count} records of the generation before, which are in the file")
    else:
        yield Check("journal", "fail", f"{count} records that continue another state of the file: {cure}")
    if recorded.rest:
        said = f"{recorded.rest} bytes of a change that was cut off while it was written and never acknowledged"
        yield Check("journal", "warn", f"{said}; the next change takes their place")


def _records_check(recorded: Recorded, footer: Footer, cure: str) -> Check:
    try:
        changes = [change for record in recorded.records for change in from_record(record, footer.codes)]
    except IndexFileError as error:
        return Check("journal", "fail", f"{error}: {cure}")
    return Check("journal", "ok", f"{len(recorded.records)} records with {len(changes)} changes since the last save")


def _past_checks(path: Path, opened: Opened) -> Iterator[Check]:
    footer, digest = opened.footer, opened.digest
    backup = backup_of(path)
    if not backup.exists():
        yield Check("previous", "ok", "no generation before: nothing to go back to should this file be damaged")
        return
    renewed = "the next save replaces it"
    try:
        past = read_index(backup)
    except IndexFileError:
        yield Check("previous", "warn", f"{backup} is damaged, so there is nothing to go back to; {renewed}")
        return
    if past.digest == digest:
        yield Check("previous", "ok", f"{backup.name} is the same state, as after a repair")
        return
    if past.digest != footer.previous:
        yield Check("previous", "warn", f"{backup} is not the state that this file was made from; {renewed}")
        return
    recorded = scan_journal(journal_of(backup))
    whole = recorded.continues == past.digest and str(recorded.place) == footer.absorbed if footer.absorbed else True
    if recorded.damaged or not whole:
        yield Check("previous", "warn", f"{journal_of(backup)} does not lead to this file; {renewed}")
        return
    count = len(recorded.records) if footer.absorbed else 0
    yield Check("previous", "ok", f"generation {past.footer.generation} in {backup.name} and {count} records")


def _model_check(path: Path, name: str, model: ModelReference) -> Check:
    beside, absolute = (path.resolve().parent / model.relative).resolve(), Path(model.absolute)
    places = [place for place in (beside, absolute) if model.absolute and place.is_file()]
    # another model may have been put where this one lay
    found = next((place for place in places if file_sha256(place) == model.sha256), next(iter(places), None))
    if found is None:
        return Check(name, "warn", f"{model.fingerprint} is neither at {beside} nor at {absolute}: give --model")
    if file_sha256(found) != model.sha256:
        said = f"{found} is another file than the one that was noted"
        return Check(name, "warn", f"{said}; commands refuse it unless it is another form of {model.fingerprint}")
    return Check(name, "ok", f"{model.fingerprint}, {found}")


def _foreign_checks(path: Path, error: NoFooterError) -> list[Check]:
    content, _ = file_bytes(path)
    if is_marked(content):
        return [Check("footer", "fail", f"{error}: deepir wrote it, and its end is cut off or damaged")]
    try:
        facts = probe(path)
    except IndexFileError as unreadable:
        return [Check("footer", "fail", str(unreadable))]
    said = f"{facts['count']} vectors of {facts['dim']} values ({facts['dtype']}, {facts['metric']})"
    return [
        Check("footer", "warn", f"{error}: no checksum, no labels; deepir-index import makes an index of it"),
        Check("usearch", "ok", f"{said} can be read and searched"),
    ]


def _deep_checks(path: Path) -> list[Check]:
    words = [sys.executable, "-m", _DEEP, str(path)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603 our own words, no shell
    except subprocess.TimeoutExpired:
        return [Check("load", "fail", f"it was not loaded and searched within {_SECONDS} seconds")]
    if done.returncode < 0:
        return [Check("load", "fail", f"usearch dies of it ({signal.Signals(-done.returncode).name})")]
    if done.returncode:
        return [Check("load", "fail", (done.stderr.strip().splitlines() or ["no reason given"])[-1])]
    return [Check(**fields) for fields in json.loads(done.stdout)]
