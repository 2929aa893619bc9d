"""Training of the report: what was done, how long it took, how the losses fell, and whether INT8 passed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from report_charts import bar_chart, line_chart
from report_html import Html, section, tag

TRAININGS = {
    "teacher": "teacher",
    "student": "student, distilled",
}
STORY = (
    "A synthetic shop was rendered: products on white for reference, photographs of them among clutter, and a walk "
    "past a shelf. The products of the test are not among those of the training.",
    "A teacher network was trained to give pictures of the same product similar descriptors. It looks at each "
    "picture at three resolutions and joins what it sees: better, and several times the work.",
    "A smaller student, which looks at each picture once, was cut from the teacher's first two stages: whitened and "
    "joined as they are (undistilled), then taught without labels to say what the teacher and these stages say "
    "together (distilled).",
    "The student was exported to ONNX and quantised to INT8 with calibration pictures; both forms were scored on the "
    "same photographs as the teacher.",
    "The reference pictures became an index; every frame of the video was looked up in it, and named, or called "
    "unknown when nothing was similar enough.",
)


def show_steps(seconds: Mapping[str, float], commands: Mapping[str, str]) -> Html:
    """Return the section that tells what was done, by which commands, and how long each step took."""
    bars = [(name, value, duration(value), "f-accent") for name, value in seconds.items()]
    listing = "\n".join(f"# {name}\n{command}" for name, command in commands.items())
    told = [tag("details", tag("summary", "The commands"), tag("pre", listing))] if commands else []
    return section(
        "What was done",
        tag("ol", *(tag("li", line) for line in STORY)),
        *told,
        tag("h3", f"How long it took: {duration(sum(seconds.values()))} in all"),
        bar_chart(bars, title="time of each step"),
    )


def show_training(run: Path) -> Html:
    """Return the section with the curves of the trainings."""
    curves = []
    for key, name in TRAININGS.items():
        lines = (run / f"{key}.safetensors.log.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        time = duration(sum(row["seconds"] for row in rows))
        curves += [
            _show_curve(f"{name}: {quantity}", [row[quantity] for row in rows], time)
            for quantity in ("loss", "validation_cosine")
            if rows and quantity in rows[0]
        ]
    return section(
        "How the trainings went",
        tag(
            "p",
            "The losses of different trainings measure different things, so compare the courses, not the heights. "
            "Cosine is the similarity of the student's descriptor to the teacher's for the same picture: 1 is equal.",
        ),
        tag("div", *curves, class_="charts"),
    )


def read_calibration(run: Path) -> dict[str, Any]:
    """Return the record that the calibration left."""
    record: dict[str, Any] = json.loads((run / "student.int8.calib.json").read_text(encoding="utf-8"))
    # the verdict that decides: the first that failed, else the first
    verdicts = record["verdicts"]
    record["verdict"] = next((verdict for verdict in verdicts if not verdict["passed"]), verdicts[0])
    return record


def show_calibration(record: Mapping[str, Any]) -> Html:
    """Return the section with the verdict on the INT8 model."""
    verdict = record["verdict"]
    passed = tag("b", "passed" if verdict["passed"] else "FAILED", class_="good" if verdict["passed"] else "bad")
    return section(
        "Is INT8 close enough?",
        tag(
            "p",
            "The check ",
            passed,
            f" on {verdict['images']} pictures: cosine of the INT8 descriptor to the FP32 one "
            f"{verdict['cosine_mean']:.4f} on average and {verdict['cosine_min']:.4f} at worst; the same nearest "
            f"neighbour for {verdict['agreement']:.1%} of the pictures, in {verdict['program']}. Ranges chosen by "
            f"{record['recipe']['method']}; {len(record['recipe']['kept'])} convolutions stay FP16.",
        ),
        *(
            []
            if verdict["passed"]
            else [
                tag(
                    "p",
                    "Compare its scores with those of the FP32 student, above, before it goes to a device.",
                    class_="bad",
                )
            ]
        ),
    )


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _show_curve(name: str, values: list[float], time: str) -> Html:
    count = f"{len(values)} epoch{'s' if len(values) != 1 else ''}"
    return tag("figure", tag("figcaption", tag("b", name), f" · {count}, {time}"), line_chart(values, title=name))
