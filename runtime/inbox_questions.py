"""One question for each cluster of an inbox, asked on a terminal."""

import sys

import click

from deepir.errors import InputError
from deepir.label_tree import check_label
from deepir.runtime.inbox import Inbox, InboxCluster

_TAKE = "="
"""As an answer: the suggested label."""


def ask_labels(found: Inbox) -> dict[int, str]:
    """The labels that a person types, by the number of the cluster; the end of the input ends the questions."""
    answers: dict[int, str] = {}
    for cluster in found.clusters:
        answer = _ask(cluster)
        if answer is None:
            break
        if answer:
            answers[cluster.number] = answer
    return answers


def _ask(cluster: InboxCluster) -> str | None:
    """A label, nothing for none, None at the end of the input."""
    while True:
        click.echo(f"{_question(cluster)} ", err=True, nl=False)
        line = sys.stdin.readline()
        if not line:
            click.echo(err=True)
            return None
        answer = line.strip()
        try:
            return check_label(cluster.suggestion if answer == _TAKE else answer) if answer else ""
        except InputError as error:
            click.echo(str(error), err=True)


def _question(cluster: InboxCluster) -> str:
    return (
        f"cluster {cluster.number}, {len(cluster.pictures)} pictures such as {cluster.pictures[0].name}, most like "
        f"{cluster.suggestion or 'nothing'} ({cluster.answer.similarity:.3f}, {cluster.answer.status}); label?"
    )
