"""Several processes that train one network, as torchrun starts them: who does what, and what they tell each other."""

import atexit
import datetime
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from deepir.errors import DeepIRError, InputError, OptionError

_T = TypeVar("_T")

_PATIENCE = datetime.timedelta(hours=24)
"""While the first process describes views or validates, the others wait; torchrun notices those that died."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process among those that train together; alone, all of it does nothing.

    Attributes:
        number: Of this process, from 0; process 0 alone writes and speaks.
        count: How many there are.
    """

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.number == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """The part of a batch that is this process's, in the batch's order; parts differ by one item at most.

        Raises:
            OptionError: Fewer items than processes.
        """
        if len(items) < self.count:
            message = (
                f"a batch of {len(items)} pictures cannot be shared by {self.count} processes: "
                "use a larger --batch or fewer processes"
            )
            raise OptionError(message)
        return items[self._start(self.number, len(items)) : self._start(self.number + 1, len(items))]

    def gather(self, own: Tensor, total: int) -> Tensor:
        """The rows of all processes in the batch's order, (total, ...); gradients flow to this process's own alone.

        The gradient that flows back is multiplied by the number of processes, because DistributedDataParallel takes
        the mean of what the processes found, each of which knows its own rows' part of the sum.
        """
        if self.count == 1:
            return own
        lengths = [self._start(rank + 1, total) - self._start(rank, total) for rank in range(self.count)]
        padded = own.detach().new_zeros((max(lengths), *own.shape[1:]))
        padded[: len(own)] = own.detach()
        found = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(found, padded.contiguous())
        rows = [part[:length] for part, length in zip(found, lengths, strict=True)]
        if own.requires_grad:
            own.register_hook(lambda gradient: gradient * self.count)  # type: ignore[no-untyped-call]
            rows[self.number] = own
        return torch.cat(rows)

    def largest(self, code: int) -> int:
        """The largest of what the processes say."""
        if self.count == 1:
            return code
        told = torch.tensor(code)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return int(told)

    def check(self, error: DeepIRError | None) -> None:
        """Raise in every process when one of them has an error.

        Raises:
            DeepIRError: This process's error.
            InputError: The error of another one, in its words.
        """
        if error is not None and self.count == 1:
            raise error
        if not self.largest(int(error is not None)):
            return
        told = [self.from_rank(rank, str(error or "").encode()) for rank in range(self.count)]
        if error is not None:
            raise error
        message = next(words for words in told if words).decode()
        raise InputError(message)

    def from_rank(self, rank: int, content: bytes) -> bytes:
        """The bytes that one process holds; what the others pass is ignored."""
        if self.count == 1:
            return content
        length = torch.tensor(len(content))
        dist.broadcast(length, rank)
        values = torch.zeros(int(length), dtype=torch.uint8)
        if rank == self.number:
            values = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(content)]
        dist.broadcast(values, rank)
        return values.numpy().tobytes()

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the values that the first one has."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def _start(self, rank: int, total: int) -> int:
        return total * rank // self.count


def current() -> Ranks:
    """Which of the processes this is that torchrun started; alone without it."""
    return _join() if dist.is_available() and dist.is_torchelastic_launched() else Ranks()


@contextmanager
def first_on_each_machine_first() -> Iterator[None]:
    """Let the first process of each machine run the body, such as filling a cache, before the others run it."""
    ranks, is_first = current(), local_rank() == 0
    if not is_first:
        ranks.largest(0)
    try:
        yield
    finally:
        if is_first:
            ranks.largest(0)


def local_rank() -> int:
    """The number of this process on its machine; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@functools.cache
def _join() -> Ranks:
    """Meet the other processes, once."""
    has_gpu = torch.cuda.is_available()
    if has_gpu and local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    if not dist.is_initialized():
        # words are told over gloo, descriptors and gradients over what suits their device
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=_PATIENCE)
        atexit.register(dist.destroy_process_group)
    return Ranks(dist.get_rank(), dist.get_world_size())
