"""Records of a journal, replayed on a list of items to see whether they fit, and told in words."""

from collections.abc import Sequence

from deepir.errors import IndexFileError
from deepir.runtime.changes import Addition, Change, Relabelling, Removal, from_record
from deepir.runtime.codes import Codes
from deepir.runtime.index_file import Opened
from deepir.runtime.items import ItemTable

_MOST_NAMED = 5


class Replay:
    """The list of items of an index file, changed by records as an index would be.

    Attributes:
        items: As they are now.
    """

    def __init__(self, opened: Opened) -> None:
        self.items = ItemTable.from_sections(opened.sections)
        self._codes = opened.footer.codes
        self._next_key = opened.footer.next_key

    def take(self, records: Sequence[bytes]) -> tuple[int, str]:
        """Let the records happen up to the first that does not fit; how many did, and why that one does not."""
        for number, record in enumerate(records):
            try:
                changes = from_record(record, self._codes)
            except IndexFileError as error:
                return number, str(error)
            reason = self._misfit(changes)
            if reason:
                return number, reason
            for change in changes:
                self._apply(change)
        return len(records), ""

    def _misfit(self, changes: Sequence[Change]) -> str:
        next_key = self._next_key
        for change in changes:
            if isinstance(change, Addition):
                if int(change.keys[0]) != next_key:
                    return f"it adds the key {change.keys[0]} where {next_key} comes next"
                next_key = int(change.keys[-1]) + 1
            elif isinstance(change, Removal | Relabelling) and not self.items.contains(change.keys).all():
                return f"it is about the key {change.keys[~self.items.contains(change.keys)][0]}, which is not there"
        return ""

    def _apply(self, change: Change) -> None:
        if isinstance(change, Addition):
            self.items.append(change.keys, change.label, change.sources, change.metadata)
            self._next_key = int(change.keys[-1]) + 1
        elif isinstance(change, Removal):
            self.items.remove(change.keys)
        elif isinstance(change, Relabelling):
            self.items.relabel(change.keys, change.label)


def record_text(record: bytes, codes: Codes) -> str:
    """What a record would have changed, in words."""
    try:
        return ", ".join(_change_text(change) for change in from_record(record, codes))
    except IndexFileError:
        return f"a change of {len(record)} bytes that cannot be read"


def _change_text(change: Change) -> str:
    if isinstance(change, Addition):
        return (
            f"{len(change.keys)} views of {change.label} added ({_named([str(source) for source in change.sources])})"
        )
    if isinstance(change, Removal):
        return f"{len(change.keys)} views removed (keys {_named(change.keys.tolist())})"
    if isinstance(change, Relabelling):
        return (
            f"{len(change.keys)} views relabelled as {change.label} (keys {_named([str(key) for key in change.keys])})"
        )
    return "threshold, far or margin set"


def _named(names: Sequence[object]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(str, names[:_MOST_NAMED])) + more
