"""Where the time until the first answer goes, as a program: prints the milliseconds of each step as a JSON object.

python pipeline_start.py $(date +%s.%N) clip.mp4 shop.usearch student.int8.onnx
"""

import time

_BEGAN = time.time()

import json  # noqa: E402 the clock comes first
import sys  # noqa: E402
from pathlib import Path  # noqa: E402


def main() -> None:
    """The steps of deepir-run, one after the other."""
    marks = [("interpreter", float(sys.argv[1])), ("import deepir-run", _BEGAN)]
    from deepir.runtime import cli  # noqa: F401 its import is what is timed
    from deepir.runtime.index import Index
    from deepir.runtime.recogniser import Recogniser
    from deepir.runtime.source import open_source

    source_word, index_path, model_path = sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    marks.append(("open the index", time.time()))
    index = Index.open(index_path)
    marks.append(("load the model", time.time()))
    from deepir.runtime.extractor import Extractor

    recogniser = Recogniser(Extractor.open(model_path), index)
    marks.append(("open the source, decode a frame", time.time()))
    with open_source(source_word) as source:
        frame = next(iter(source))
        marks.append(("prepare and describe it", time.time()))
        query = recogniser.describe(frame.image)
        marks.append(("search", time.time()))
        recogniser.answer(query)
        ends = [*(moment for _, moment in marks[1:]), time.time()]
    steps = {name: 1000 * (end - start) for (name, start), end in zip(marks, ends, strict=True)}
    sys.stdout.write(json.dumps(steps) + "\n")


if __name__ == "__main__":
    main()
