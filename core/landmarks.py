"""Oxford5k and Paris6k: ground truth as text files of names, a box for each query (method.md 2.5)."""

from pathlib import Path

from deepir.errors import InputError
from deepir.named_pictures import NamedPictures
from deepir.retrieval_set import Query, RetrievalSet, as_box, refuse_missing, scored_set

NAMES = {"oxford": "oxford5k", "paris": "paris6k"}

PROTOCOL = (
    "good and ok are positives, junk takes no rank, the query's own image is ranked, queries are cropped to their box"
)

DAMAGED = frozenset(
    f"paris_{landmark}_{number:06d}"
    for landmark, numbers in {
        "louvre": (136, 146),
        "moulinrouge": (422,),
        "museedorsay": (1059,),
        "notredame": (188,),
        "pantheon": (284, 960, 974),
        "pompidou": (195, 196, 201, 467, 640),
        "sacrecoeur": (299, 330, 353),
        "triomphe": (662, 833, 863, 867),
    }.items()
    for number in numbers
)
"""Pictures of Paris6k whose files are damaged; its protocol leaves them out of the database."""

_LABEL_FOLDERS = ("", "lab", "groundtruth")
_QUERY_END = "_query.txt"
_OXFORD_PREFIX = "oxc1_"


def landmark_layout(source: Path) -> str | None:
    """`oxford` or `paris` by the first query's picture, None when there are no files of ground truth."""
    files = _query_files(source)
    if not files:
        return None
    return "paris" if _words(files[0])[0].startswith("paris_") else "oxford"


def read_landmarks(source: Path, layout: str) -> dict[str, RetrievalSet]:
    """The one set of Oxford5k (`oxford`) or Paris6k (`paris`).

    The files `*_query.txt`, `_good`, `_ok` and `_junk` lie in the folder, in `lab/` or in `groundtruth/`; pictures in
    `jpg/`, `images/` or the folder, Paris by landmark. A positive that is among the damaged pictures of Paris still
    counts, as in the program of the benchmark.

    Raises:
        InputError: No ground truth, a file of it missing or damaged, or pictures missing.
    """
    files = _query_files(source)
    if not files:
        message = f"no ground truth in {source}: expected files <query>{_QUERY_END} there, in lab/ or in groundtruth/"
        raise InputError(message)
    dropped = DAMAGED if layout == "paris" else frozenset()
    pictures = NamedPictures(source)
    queries = [_read_query(file, pictures) for file in files]
    labelled = (path for query in queries for path in (query.image, *sorted(query.positives | query.junk)))
    refuse_missing(f"the ground truth in {files[0].parent}", (path for path in labelled if path.stem not in dropped))
    database = [pictures.path(name) for name in pictures.names if name not in dropped]
    name = NAMES[layout]
    return {name: scored_set(name, database, queries, PROTOCOL)}


def _query_files(source: Path) -> list[Path]:
    folders = (source / name for name in _LABEL_FOLDERS)
    return next((files for folder in folders if (files := sorted(folder.glob(f"*{_QUERY_END}")))), [])


def _read_query(file: Path, pictures: NamedPictures) -> Query:
    key = file.name.removesuffix(_QUERY_END)
    name, *numbers = _words(file)
    image = name.removeprefix(_OXFORD_PREFIX)
    good, ok, junk = (_words(file.with_name(f"{key}_{kind}.txt"), least=0) for kind in ("good", "ok", "junk"))
    return Query(
        key,
        pictures.path(image),
        frozenset(map(pictures.path, (*good, *ok))),
        frozenset(map(pictures.path, junk)),
        as_box(numbers, str(file)),
    )


def _words(file: Path, least: int = 1) -> list[str]:
    try:
        words = file.read_text(encoding="utf-8").split()
    except OSError as error:
        message = f"cannot read {file}: {error.strerror}"
        raise InputError(message) from error
    except ValueError as error:
        message = f"{file} is not text: {error}"
        raise InputError(message) from error
    if len(words) < least:
        message = f"{file} is empty: expected the name of a picture and its box"
        raise InputError(message)
    return words
