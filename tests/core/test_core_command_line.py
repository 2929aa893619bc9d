"""What a command answers about itself."""

import click
import pytest
from click.testing import CliRunner, Result

from deepir import __version__
from deepir.command_line import introduces_itself


@pytest.fixture
def group() -> click.Group:
    @introduces_itself
    @click.group(context_settings={"auto_envvar_prefix": "DEEPIR_SHOP"})
    def shop() -> None:
        """A shop."""

    @shop.command()
    def sell() -> None:
        """Sell something."""
        click.echo("sold")

    return shop


def invoke(group: click.Group, *words: str, **environment: str) -> Result:
    return CliRunner().invoke(group, words, env=environment, prog_name="deepir-shop")


def test_version_is_that_of_the_package(group: click.Group) -> None:
    result = invoke(group, "--version")
    assert (result.exit_code, result.stdout) == (0, f"deepir-shop, version {__version__}\n")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_has_a_short_form_below_a_group_too(group: click.Group, word: str) -> None:
    assert "A shop." in invoke(group, word).stdout
    assert "Sell something." in invoke(group, "sell", word).stdout


def test_no_variable_asks_for_the_version(group: click.Group) -> None:
    assert invoke(group, "sell", DEEPIR_SHOP_VERSION="1").stdout == "sold\n"
