"""A damaged index or journal is brought back to the last state that can be trusted; nothing is deleted.

A file that is whole keeps all changes of its journal up to the first damage. One that is damaged gives way to the
generation before, `<name>.bak`, with the changes that led from there to it, `<name>.bak.journal`, and those of its own
journal. Each step leaves files from which a repair that was killed can be begun again.
"""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from deepir.errors import IndexFileError, InputError
from deepir.files import replacing
from deepir.runtime.index_file import NoFooterError, Opened, backup_of, file_bytes, read_index, stated_digest
from deepir.runtime.index_footer import OtherVersionError
from deepir.runtime.index_foreign import probe
from deepir.runtime.index_lock import WAIT, IndexLock
from deepir.runtime.index_replay import Replay, record_text
from deepir.runtime.journal import Recorded, journal_of, records_behind, scan_journal, write_journal
from deepir.runtime.store import is_marked, is_usearch

_ANY_VERSION = re.compile(rb"DEEPIRX\d")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        text: In words.
        act: Does it.
    """

    text: str
    act: Callable[[], object]


@dataclass(slots=True)
class Plan:
    """What a repair does.

    Attributes:
        path: The index.
        found: What is wrong; empty for nothing.
        steps: In order.
        lost: The changes that will be missing, in words.
        notes: What else to know.
        views, labels: How many there are then.
    """

    path: Path
    found: str = ""
    steps: list[Step] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    views: int = 0
    labels: int = 0


def repair_index(path: Path, *, dry_run: bool = False, wait: float = WAIT) -> Plan:
    """Repair an index, or only say how, and what is lost.

    Args:
        path: The index.
        dry_run: Change nothing.
        wait: Seconds to wait for another program that is changing it.

    Raises:
        InputError: The file is missing, and so is the generation before; or the folder cannot be written.
        IndexFileError: Nothing can be done.
        IndexBusyError: Another program is changing it.
    """
    path = path.resolve() if path.is_symlink() else path
    if not path.exists() and not backup_of(path).exists():
        # before a lock is made for what may be a slip of the pen
        file_bytes(path)
    with IndexLock(path, wait):
        plan = _planned(path)
        for step in () if dry_run else plan.steps:
            step.act()
        return plan


def _planned(path: Path) -> Plan:
    try:
        opened = read_index(path)
    except InputError:
        if path.exists() or not backup_of(path).exists():
            raise
        return _back(path, "it is missing")
    except NoFooterError as error:
        _refuse_others(path)
        return _back(path, str(error))
    except IndexFileError as error:
        if isinstance(error.__cause__, OtherVersionError):
            message = f"{path} is not damaged, but {error.__cause__}: there is nothing to repair"
            raise IndexFileError(message) from error
        return _back(path, str(error.__cause__))
    return _mended_journal(path, opened)


def _mended_journal(path: Path, opened: Opened) -> Plan:
    """For a file that is whole."""
    journal, plan, replay, footer = journal_of(path), Plan(path), Replay(opened), opened.footer
    recorded, beheaded = _scanned(journal, opened.digest)
    stale = (recorded.continues, str(recorded.place)) == (footer.previous, footer.absorbed) and footer.previous != ""
    if recorded.records and recorded.continues != opened.digest and not stale:
        plan.found = f"{journal.name} holds {len(recorded.records)} changes of another state of it"
        plan.steps.append(_put_aside(journal, "aside"))
        plan.lost.append(f"nothing of {path.name}; the changes in the journal belong to another file or an older one")
    elif not stale:
        taken, misfit = replay.take(recorded.records)
        if beheaded or recorded.rest or taken < len(recorded.records):
            plan.found = misfit or _rest_text(journal, recorded)
            plan.lost += _lost(journal, recorded, taken, opened)
            plan.steps.append(_keep_copy(journal))
            plan.steps.append(_rewritten(journal, opened.digest, recorded.records[:taken]))
    return _counted(plan, replay)


def _back(path: Path, reason: str) -> Plan:
    """For a file that is damaged."""
    backup, journal, plan = backup_of(path), journal_of(path), Plan(path, found=reason)
    past = _past(path, reason)
    own, _ = _scanned(journal, past.digest, stated_digest(path))
    before, _ = _scanned(journal_of(backup), past.digest)
    replay, led = Replay(past), Recorded() if own.continues == past.digest else before
    taken, misfit = replay.take(led.records if led.continues == past.digest else ())
    if led.records and led.continues != past.digest:
        plan.notes.append(f"{journal_of(backup).name} does not continue {backup.name} and is left alone")
    elif led.continues == past.digest and (led.rest or taken < len(led.records)):
        plan.notes.append(misfit or _rest_text(journal_of(backup), led))
        plan.lost += _lost(journal_of(backup), led, taken, past)
    records = [*led.records[:taken], *_own_records(plan, own, past, led.records[:taken])]
    replay.take(records[taken:])
    if records:
        plan.steps.append(_rewritten(journal, past.digest, records))
    if path.exists():
        kept = _free(path, "damaged")
        plan.steps.append(Step(f"keep the damaged file as {kept.name}", partial(_copy, path, kept)))
    written = f"generation {past.footer.generation}"
    plan.steps.append(Step(f"go back to {backup.name} ({written})", partial(_copy, backup, path)))
    plan.notes.append(
        f"{backup.name} and its journal are what {path.name} was made from; where build, merge, import or rebuild "
        "wrote it, they are the index that was there before"
    )
    return _counted(plan, replay)


def _own_records(plan: Plan, own: Recorded, past: Opened, led: Sequence[bytes]) -> list[bytes]:
    """Those changes in the damaged file's journal that happen; what becomes of the others is planned and told."""
    journal, stated = journal_of(plan.path), stated_digest(plan.path)
    if not own.records:
        plan.lost += _lost(journal, own, 0, past)
        plan.steps += [_put_aside(journal, "damaged")] if own.rest else []
        return []
    replay = Replay(past)
    replay.take(led)
    taken, misfit = replay.take(own.records)
    certain = own.continues in {past.digest, stated}
    if not certain and (stated or taken < len(own.records)):
        plan.steps.append(_put_aside(journal, "aside"))
        reason = f" ({misfit})" if misfit else ""
        plan.lost.append(f"{len(own.records)} changes in {journal.name}, which continue another state{reason}")
        return []
    if not certain:
        plan.notes.append(
            f"{plan.path.name} does not say any more which state it was: the {taken} changes in {journal.name} were "
            "taken because they fit"
        )
    if own.rest or taken < len(own.records):
        plan.notes.append(misfit or _rest_text(journal, own))
        plan.lost += _lost(journal, own, taken, past)
    if own.rest or taken < len(own.records) or not certain:
        plan.steps.append(_keep_copy(journal) if taken else _put_aside(journal, "damaged"))
    return list(own.records[:taken])


def _past(path: Path, reason: str) -> Opened:
    backup = backup_of(path)
    try:
        return read_index(backup)
    except (InputError, IndexFileError) as error:
        state = f"{backup} is damaged too" if backup.exists() else f"there is no {backup} to go back to"
        message = (
            f"nothing can be repaired: {path} is no usable index ({reason}), and {state}; make it again with "
            f"deepir-index build {path} FOLDER --model MODEL.onnx"
        )
        raise IndexFileError(message) from error


def _refuse_others(path: Path) -> None:
    """Leave alone what is whole, and another version of deepir or another program wrote."""
    content, _ = file_bytes(path)
    if _ANY_VERSION.fullmatch(content[-8:]):
        message = f"another version of deepir wrote {path}: there is nothing to repair"
        raise IndexFileError(message)
    if is_marked(content) or not is_usearch(content):
        return
    try:
        whole = probe(path)["bytes"] == len(content)
    except IndexFileError:
        return
    if whole:
        message = f"another program wrote {path}, and it can be read: make an index of it with deepir-index import"
        raise IndexFileError(message)


def _scanned(journal: Path, *digests: str) -> tuple[Recorded, bool]:
    """What a journal holds, and whether that can be read only when its head is taken to name one of these digests."""
    recorded = scan_journal(journal)
    for digest in filter(None, digests if recorded.damaged and not recorded.records else ()):
        again = scan_journal(journal, digest)
        if again.records:
            return again, True
    return recorded, False


def _lost(journal: Path, recorded: Recorded, taken: int, opened: Opened) -> list[str]:
    codes = opened.footer.codes
    lost = [record_text(record, codes) for record in recorded.records[taken:]]
    if recorded.damaged:
        lost += [f"what stood at byte {recorded.place.end} of {journal.name}, which is damaged"]
        lost += [record_text(record, codes) for record in records_behind(journal, recorded.place)]
    elif recorded.rest:
        lost += [
            f"a change of which {recorded.rest} bytes were written when the writer was stopped; nobody was told of it"
        ]
    return lost


def _rest_text(journal: Path, recorded: Recorded) -> str:
    if recorded.damaged:
        return f"{journal.name} is damaged at byte {recorded.place.end}"
    if not recorded.rest:
        return f"the head of {journal.name} is damaged"
    return f"{journal.name} ends in {recorded.rest} bytes of a change that was cut off while it was written"


def _counted(plan: Plan, replay: Replay) -> Plan:
    plan.views, plan.labels = len(replay.items), len(replay.items.counts())
    return plan


def _rewritten(journal: Path, digest: str, records: Sequence[bytes]) -> Step:
    text = f"let {journal.name} hold the {len(records)} records that can be trusted"
    return Step(text, partial(write_journal, journal, digest, records))


def _put_aside(file: Path, word: str) -> Step:
    aside = _free(file, word)
    return Step(f"put {file.name} aside as {aside.name}", partial(os.rename, file, aside))


def _keep_copy(journal: Path) -> Step:
    kept = _free(journal, "damaged")
    return Step(f"keep a copy of {journal.name} as {kept.name}", partial(_copy, journal, kept))


def _free(file: Path, word: str) -> Path:
    """A name beside a file that nothing has yet: what an earlier repair kept stays too."""
    names = [f"{file.name}.{word}", *(f"{file.name}.{word}.{number}" for number in range(2, 1000))]
    return next(path for name in names if not (path := file.with_name(name)).exists())


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
