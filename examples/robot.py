"""A robot's loop: look, recognise, act on what was seen for several frames in a row.

python examples/robot.py camera0 shop.usearch
"""

import sys
from collections import deque

from deepir import DeepIRError
from deepir.errors import INTERRUPTED
from deepir.runtime import Recogniser, open_source

VOTES = 5
NEEDED = 3


def announce(label: str, similarity: float) -> None:
    """What the robot does; put your own action here."""
    sys.stdout.write(f"I see {label} ({similarity:.2f})\n")


def watch(source_text: str, index: str) -> None:
    """Announce a label when most of the last frames agree on it, once until another one comes."""
    recent: deque[str | None] = deque(maxlen=VOTES)
    announced = None
    with Recogniser.open(index) as recogniser, open_source(source_text) as source:
        recogniser.warmup()
        for frame in source:
            recognition = recogniser(frame.image)
            # only a match is certain: an ambiguous answer names no more than what its candidates share
            seen = recognition.label if recognition.status == "match" else None
            recent.append(seen)
            if seen not in (None, announced) and recent.count(seen) >= NEEDED:
                announce(seen, recognition.similarity)
                announced = seen


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python robot.py SOURCE INDEX")
    try:
        watch(sys.argv[1], sys.argv[2])
    except DeepIRError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
