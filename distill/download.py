"""Pictures of a CSV (id, url, landmark_id) fetched into label folders; a second run goes on (method.md 4.8)."""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deepir.datasets import LabelledImage
from deepir.distill.collect_log import appending, read_log
from deepir.distill.collect_source import BROKEN, OUTSIDE, ClassLimits, Listing
from deepir.distill.fetch import FetchConfig, Fetcher, suffix_of
from deepir.errors import InputError
from deepir.files import replacing
from deepir.image import SUFFIXES

DONE_LOG = "done.log.jsonl"
BROKEN_LOG = "broken.log.jsonl"

_COLUMNS = ("id", "url", "landmark_id")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_AHEAD = 2
"""Pictures under way for each thread."""

_REPORT_EVERY = 1000


@dataclass(frozen=True, slots=True)
class RemotePicture:
    """A row of the CSV: a picture's key, where it is, and what it shows."""

    key: str
    url: str
    label: str


def read_url_csv(path: Path) -> list[RemotePicture]:
    """The rows of a CSV with the columns id, url and landmark_id; other columns are passed over.

    Raises:
        InputError: Not such a CSV, an id that cannot be a file's name, or one that stands for two rows.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            rows = [] if missing else [tuple((row[column] or "").strip() for column in _COLUMNS) for row in reader]
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"{path} is not a CSV in UTF-8: {error}"
        raise InputError(message) from error
    if missing or not rows:
        message = (
            f"{path} {f'lacks the columns {missing}' if missing else 'has no rows'}: it needs id, url, landmark_id"
        )
        raise InputError(message)
    pictures = [RemotePicture(*row) for row in dict.fromkeys(rows)]
    _check_names(path, pictures)
    return pictures


def download(
    pictures: Sequence[RemotePicture],
    folder: Path,
    config: FetchConfig,
    *,
    limits: ClassLimits | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Listing:
    """Fetch pictures to FOLDER/<label>/<key> and give those that are there; each file bears its format's suffix.

    What an earlier run got is not fetched again, nor what it could not get unless `retry_broken`. `done.log.jsonl` and
    `broken.log.jsonl` in the folder say of each picture what became of it.

    Args:
        pictures: Rows of `read_url_csv`.
        folder: Made where it is missing.
        config: Limits of the downloads.
        limits: Labels with too few or too many rows are not fetched at all.
        report: Takes a line for people.

    Raises:
        InputError: No picture could be had, or the folder cannot be written.
    """
    wanted, outside = (limits or ClassLimits()).split(pictures)
    folder.mkdir(parents=True, exist_ok=True)
    there = _got_earlier(wanted, folder)
    failed = set() if config.retry_broken else _failed_earlier(wanted, folder)
    waiting = [picture for picture in wanted if picture not in there and picture not in failed]
    report(f"{len(there)} of {len(wanted)} pictures are there, {len(waiting)} to fetch")
    with appending(folder / DONE_LOG) as done, appending(folder / BROKEN_LOG) as broken:
        for number, (picture, result) in enumerate(_fetched(waiting, config), 1):
            entry = {"id": picture.key, "url": picture.url, "label": picture.label}
            if isinstance(result, InputError):
                broken({**entry, "reason": str(result)})
            else:
                there[picture] = _store(picture, result, folder)
                done({**entry, "suffix": there[picture].suffix, "bytes": len(result)})
            if number % _REPORT_EVERY == 0:
                report(f"{number} of {len(waiting)} pictures")
    if not there:
        message = f"none of the {len(wanted)} pictures could be had: {folder / BROKEN_LOG} says why"
        raise InputError(message)
    images = tuple(LabelledImage(there[picture], picture.label) for picture in wanted if picture in there)
    return Listing(
        folder, images, {BROKEN: [picture.key for picture in wanted if picture not in there], OUTSIDE: outside}
    )


def _check_names(path: Path, pictures: Sequence[RemotePicture]) -> None:
    """Refuse keys and labels that could name a file elsewhere, before anything is fetched."""
    keys: set[str] = set()
    for picture in pictures:
        if not (_SAFE.fullmatch(picture.key) and _SAFE.fullmatch(picture.label)):
            message = (
                f"{path}: the id {picture.key!r} of the landmark_id {picture.label!r} cannot be a file's name: "
                "use letters, digits, - and _"
            )
            raise InputError(message)
        if picture.key in keys:
            message = f"{path}: the id {picture.key} stands in two different rows: give each picture its own"
            raise InputError(message)
        keys.add(picture.key)


def _got_earlier(pictures: Sequence[RemotePicture], folder: Path) -> dict[RemotePicture, Path]:
    """Pictures of the done log whose file is there, as large as it was."""
    logged = {(entry.get("id"), entry.get("url")): entry for entry in read_log(folder / DONE_LOG)}
    there = {}
    for picture in pictures:
        entry = logged.get((picture.key, picture.url))
        if entry is None or entry.get("suffix") not in SUFFIXES:
            continue
        path = _place(picture, str(entry["suffix"]), folder)
        if path.is_file() and path.stat().st_size == entry.get("bytes"):
            there[picture] = path
    return there


def _failed_earlier(pictures: Sequence[RemotePicture], folder: Path) -> set[RemotePicture]:
    logged = {(entry.get("id"), entry.get("url")) for entry in read_log(folder / BROKEN_LOG)}
    return {picture for picture in pictures if (picture.key, picture.url) in logged}


def _fetched(
    pictures: Iterable[RemotePicture], config: FetchConfig
) -> Iterator[tuple[RemotePicture, bytes | InputError]]:
    """Each picture with its bytes or the reason why not, in order; few are in memory at a time."""
    fetcher = Fetcher(config)
    pending: deque[tuple[RemotePicture, Future[bytes | InputError]]] = deque()
    pool = ThreadPoolExecutor(config.threads)
    try:
        for picture in pictures:
            pending.append((picture, pool.submit(_attempt, fetcher, picture.url)))
            if len(pending) >= _AHEAD * config.threads:
                first, future = pending.popleft()
                yield first, future.result()
        for first, future in pending:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(fetcher: Fetcher, url: str) -> bytes | InputError:
    try:
        return fetcher.fetch(url)
    except InputError as error:
        return error


def _store(picture: RemotePicture, content: bytes, folder: Path) -> Path:
    path = _place(picture, suffix_of(content), folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _place(picture: RemotePicture, suffix: str, folder: Path) -> Path:
    return folder / picture.label / f"{picture.key}{suffix}"
