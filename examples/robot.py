"""A robot's loop: look, recognise, act on what was seen for several frames in a row.

python examples/robot.py camera0 shop.usearch
"""

import sys
from collections import deque

from deepir import DeepIRError
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
        for frame in source:
            recognition = recogniser(frame.image)
            recent.append(recognition.label)
            seen = recognition.label
            if seen not in (None, announced) and recent.count(seen) >= NEEDED:
                announce(seen, recognition.similarity)
                announced = seen


if __name__ == "__main__":
    try:
        watch(*sys.argv[1:3])
    except DeepIRError as error:
        sys.exit(f"error: {error}")
