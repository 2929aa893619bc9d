"""How far a build is: TensorRT's progress monitor as one share of the whole."""

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

Step = Callable[[float], None]
"""Called with the share of the build that is done, 0..1, never falling."""

_DEEPEST = 8


class Phases:
    """The phases that run now, one in another; each is done by its finished steps and the phase within the next."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[int, int]] = {}
        self._parents: dict[str, str | None] = {}
        self._most = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, within `parent` or alone."""
        self._steps[name], self._parents[name] = (0, max(1, steps)), parent

    def step(self, name: str, number: int) -> None:
        """Step `number`, counted from 0, is done."""
        if name in self._steps:
            self._steps[name] = (number + 1, self._steps[name][1])

    def finish(self, name: str) -> None:
        """A phase ends, done or not."""
        if self._parents.get(name) is None and name in self._steps:
            self._most = 1.0
        self._steps.pop(name, None)

    def share(self) -> float:
        """0..1 of the outermost phase; it never falls."""
        roots = [name for name in self._steps if self._parents[name] not in self._steps]
        self._most = max([self._most, *(self._done(name, 0) for name in roots)])
        return self._most

    def _done(self, name: str, depth: int) -> float:
        done, steps = self._steps[name]
        inner = [child for child in self._steps if self._parents[child] == name and depth < _DEEPEST]
        within = max((self._done(child, depth + 1) for child in inner), default=0.0)
        return min(1.0, (done + min(within, 1.0)) / steps)


def make_monitor(trt: ModuleType, step: Step) -> Any:
    """An IProgressMonitor of this module that tells `step`; TensorRT calls it from several threads."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases = Phases()
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step_number: int) -> bool:
            with self._lock:
                self._phases.step(phase_name, step_number)
                step(self._phases.share())
            return True

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.finish(phase_name)
                step(self._phases.share())

    return Monitor()
