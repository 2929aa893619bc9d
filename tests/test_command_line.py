"""Every command that pyproject.toml installs answers -h and --version."""

import importlib
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from deepir import __version__

PROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
SCRIPTS = re.findall(r'^(deepir-[a-z]+) = "([a-z_.]+):main"$', PROJECT, re.MULTILINE)


@pytest.mark.parametrize(("name", "module"), SCRIPTS)
def test_a_command_answers_what_it_is(name: str, module: str) -> None:
    command: click.Command = importlib.import_module(module).main
    for word, answer in (("--version", f"{name}, version {__version__}"), ("-h", f"Usage: {name}")):
        result = CliRunner().invoke(command, [word], prog_name=name)
        assert (result.exit_code, result.output.startswith(answer)) == (0, True)


def test_all_eight_commands_are_looked_at() -> None:
    assert len(SCRIPTS) == 8
