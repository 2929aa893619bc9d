"""Options that several commands of deepir-distill share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from deepir.distill.choices import HALVES

_FILE = click.Path(path_type=Path)
_F = TypeVar("_F", bound=Callable[..., Any])


def option_group(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """One decorator for several options, in their order."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


training_options = option_group(
    click.option("--epochs", type=int, help="Passes over the pictures. [default: 20 for train, 10 for student]"),
    click.option("--batch", type=int, help="Pictures a step. [default: 32]"),
    click.option("--chunk", type=int, help="Pictures in memory at once, however large the batch."),
    click.option("--lr", "learning_rate", type=float, help="Peak learning rate. [default: 0.001]"),
    click.option("--seed", type=int, default=0),
    click.option("--validate", type=float, default=0.0, help="Share that is held out and scored after each epoch."),
    click.option("--patience", type=int, help="Stop after so many epochs without a better validation."),
    click.option("--workers", type=int, default=0, help="Processes that read pictures; 0 reads in this one."),
    click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1."),
    click.option("--mixed", is_flag=True, help="Compute in half precision: faster where the device has it."),
    click.option("--half", type=click.Choice(HALVES), default="auto", help="Which half precision --mixed takes."),
    click.option("--compile", is_flag=True, help="Translate the network with torch.compile first."),
    click.option("--tensorboard", type=_FILE, help="A folder for TensorBoard."),
    click.option("--resume", is_flag=True, help="Go on where the last run with this output stopped, to the step."),
    click.option("-q", "--quiet", is_flag=True, help="No lines for people."),
)
start_options = option_group(
    click.option("--pretrained", is_flag=True, help="Start from the library's weights (downloads them)."),
    click.option("--weights", type=_FILE, help="Start from this state dict (.safetensors, .pth)."),
    click.option("--freeze-norm/--train-norm", "freeze_norm", default=None, help="Keep batch-norm statistics."),
    click.option("--flip", is_flag=True, help="Mirror half of the pictures: not for things with text."),
)


def reporter(*, quiet: bool) -> Callable[[str], None]:
    """Takes lines for people: to stderr, or nowhere."""
    return (lambda _: None) if quiet else (lambda line: click.echo(line, err=True))
