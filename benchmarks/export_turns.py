"""Several programs timed in turns, each in a process of its own, where no other library's threads disturb it."""

import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

Run = Callable[[], object]

WARM_UPS = 2
FEWEST_RUNS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """Something to time.

    Attributes:
        name: Its row in the table.
        make: "module:function", imported in the process alone and called with `arguments`: loads what is needed and
            gives what is timed.
    """

    name: str
    make: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """What came of a case: milliseconds of each run, in the order of the turns, or why there are none."""

    name: str
    milliseconds: tuple[float, ...]
    fault: str = ""

    @property
    def median(self) -> float:
        """NaN without runs."""
        return statistics.median(self.milliseconds) if self.milliseconds else float("nan")


def time_in_turns(cases: Sequence[Case], rounds: int, seconds: float) -> list[Timing]:
    """Load each case in a process of its own, then let one at a time run for `seconds`, `rounds` times around.

    Every second round goes backwards, so that what else the machine does meets all alike.
    """
    workers = [_Worker(case) for case in cases]
    try:
        for turn in range(rounds):
            for worker in workers if turn % 2 == 0 else reversed(workers):
                worker.take_turn(seconds)
    finally:
        for worker in workers:
            worker.end()
    return [Timing(worker.case.name, tuple(worker.milliseconds), worker.fault) for worker in workers]


def call_apart(function: str, *arguments: Any) -> Any:
    """What a function, "module:function", gives in a process of its own.

    Raises:
        RuntimeError: It raised, or its process died; says how.
    """
    worker = _Worker(Case(function, "export_turns:answer_once", (function, *arguments)))
    answer, fault = worker.note, worker.fault
    worker.end()
    if fault:
        message = f"{function}: {fault}"
        raise RuntimeError(message)
    return answer


class Answer:
    """The result of a call, carried back as the note of a worker that is ready; there is nothing to time."""

    def __init__(self, note: object) -> None:
        self.note = note

    def __call__(self) -> None: ...


def answer_once(function: str, *arguments: Any) -> Answer:
    """Call a function for its result."""
    return Answer(_function(function)(*arguments))


class _Worker:
    """A process that has a case loaded and waits for its turn."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.milliseconds: list[float] = []
        self.fault = ""
        # a fresh interpreter: a fork would inherit the threads of what was imported here
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, case), daemon=True)
        self._process.start()
        theirs.close()
        self.note = self._receive()

    def take_turn(self, seconds: float) -> None:
        if not self.fault:
            self._connection.send(seconds)
            self.milliseconds += self._receive() or []

    def end(self) -> None:
        self._connection.close()
        self._process.join()

    def _receive(self) -> Any:
        try:
            kind, content = self._connection.recv()
        except EOFError:
            self._process.join()
            kind, content = "fault", f"its process ended with code {self._process.exitcode}"
        if kind == "fault":
            self.fault = content
            return None
        return content


def _serve(connection: Connection, case: Case) -> None:
    try:
        run = _function(case.make)(*case.arguments)
        for _ in range(WARM_UPS):
            run()
        connection.send(("note", run.note if isinstance(run, Answer) else None))
        while True:
            connection.send(("times", _time(run, connection.recv())))
    except EOFError:
        return
    except Exception as error:  # whatever it is belongs into the table
        connection.send(("fault", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"))


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _time(run: Run, seconds: float) -> list[float]:
    times: list[float] = []
    while len(times) < FEWEST_RUNS or sum(times) < seconds * 1000:
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1000)
    return times
