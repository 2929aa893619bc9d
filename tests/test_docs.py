"""The README and the docs are true: Python runs, commands and options exist, and marked commands run for real."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import cv2
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
SHELLS = {"console", "bash", "sh"}
RUN = "console run"
END_OF_COMMAND = set("|&;<>()")


def prepare(folder: Path, pictures: Path) -> None:
    """Put what the README's commands read into the folder they run in: photos, references and a video."""
    shutil.copytree(pictures, folder / "photos")
    shutil.copytree(pictures, folder / "references", ignore=shutil.ignore_patterns("[3-9].png"))
    video = cv2.VideoWriter(str(folder / "walk.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 96))
    for path in sorted((folder / "photos").glob("*/7.png")):
        for _ in range(5):
            video.write(cv2.resize(cv2.imread(str(path)), (96, 96)))
    video.release()


@pytest.fixture(scope="module")
def shop(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's marked commands have run."""
    folder = tmp_path_factory.mktemp("readme")
    prepare(folder, pictures)
    run_commands([command for block in BLOCKS if block.info == RUN for command in commands_of(block)], folder)
    return folder


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands after the fence, the text, and the line of its first line."""

    info: str
    body: str
    line: int


def blocks_of(markdown: str) -> list[Block]:
    return [
        Block(match["info"].strip(), match["body"], markdown.count("\n", 0, match.start("body")) + 1)
        for match in FENCE.finditer(markdown)
    ]


def commands_of(block: Block) -> list[str]:
    """The command lines of a block, continued lines joined; in a console block those after the prompt `$ `."""
    lines = block.body.replace("\\\n", " ").splitlines()
    prompted = any(line.startswith("$ ") for line in lines) or block.info.startswith("console")
    commands = [line.removeprefix("$ ").strip() for line in lines if line.startswith("$ ") or not prompted]
    return [command for command in commands if command and not command.startswith("#")]


def words_of(command: str) -> list[str]:
    """The first command's words, up to a pipe, a redirection or a comment."""
    words: list[str] = []
    for word in _lex(command):
        if set(word) <= END_OF_COMMAND:
            break
        words.append(word)
    return words


def _lex(command: str) -> shlex.shlex:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return lexer


def parse(words: list[str], commands: Mapping[str, click.Command]) -> None:
    """Parse a command line with the real command, without running it.

    Raises:
        KeyError: There is no such command.
        click.UsageError: The command has no such option, subcommand or argument.
    """
    name, *rest = words
    _parse_with(commands[name], name, rest)


def _parse_with(command: click.Command, name: str, words: list[str], parent: click.Context | None = None) -> None:
    try:
        context = command.make_context(name, list(words), parent=parent)
    except click.exceptions.Exit:
        return  # --help and --version end here
    if isinstance(command, click.Group):
        # older click keeps the subcommand's name apart from its words
        remaining = [*getattr(context, "_protected_args", ()), *context.args]
        subname, subcommand, rest = command.resolve_command(context, remaining)
        assert subcommand is not None
        _parse_with(subcommand, subname or "", rest, context)


BLOCKS = blocks_of(README)
DOCS = sorted((ROOT / "docs").glob("*.md"))
ALL_BLOCKS = [*BLOCKS, *(block for path in DOCS for block in blocks_of(path.read_text(encoding="utf-8")))]
COMMANDS = [command for block in ALL_BLOCKS if block.info.split(" ")[0] in SHELLS for command in commands_of(block)]
SCRIPTS = (
    *("deepir-bench", "deepir-calib", "deepir-distill", "deepir-doctor"),
    *("deepir-eval", "deepir-export", "deepir-index", "deepir-run"),
)


@pytest.fixture
def installed_commands() -> Mapping[str, click.Command]:
    class Loaded(dict[str, click.Command]):
        def __missing__(self, name: str) -> click.Command:
            (script,) = entry_points(group="console_scripts", name=name)
            return script.load()

    return Loaded()


@pytest.fixture
def any_path_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that a command line names need not be there to check its options."""
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, context: Path(value))


@pytest.mark.slow
def test_the_python_of_the_readme_runs(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    run_python([block for block in BLOCKS if block.info == "python"])


def run_python(blocks: list[Block]) -> dict[str, Any]:
    """Run the blocks one after another; what one defines the next may use."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:
        # the empty lines make a traceback show the README's line
        exec(compile("\n" * (block.line - 1) + block.body, str(ROOT / "README.md"), "exec"), namespace)
    return namespace


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("deepir-")])
def test_a_command_of_the_readme_exists_with_its_options(
    command: str, installed_commands: Mapping[str, click.Command], any_path_exists: None
) -> None:
    parse(words_of(command), installed_commands)


def every_command(command: click.Command) -> list[click.Command]:
    """A command and all below it."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(deeper for each in below for deeper in every_command(each))]


def test_our_options_in_the_table_for_those_who_come_from_elsewhere_exist(
    installed_commands: Mapping[str, click.Command],
) -> None:
    commands = [each for script in SCRIPTS for each in every_command(installed_commands[script])]
    known = {option for each in commands for parameter in each.params for option in parameter.opts}
    known |= {option for each in commands for parameter in each.params for option in parameter.secondary_opts}
    rows = (ROOT / "docs" / "from-other-systems.md").read_text(encoding="utf-8").splitlines()
    ours = [
        option for row in rows if row.startswith("|") for option in re.findall(r"--[a-z]+[a-z-]*", row.split("|")[2])
    ]
    assert len(ours) > 30
    assert [option for option in ours if option not in known] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_in_a_help_text_stands_on_lines_of_its_own(
    script: str, installed_commands: Mapping[str, click.Command]
) -> None:
    for command in every_command(installed_commands[script]):
        text = command.get_help(click.Context(command, info_name=script))
        assert "\\b" not in text
        assert "Example:" not in text or re.search(r"^ +Example:$", text, re.MULTILINE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_a_make_target_of_the_readme_exists(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in words_of(command)[1:] if "=" not in word]
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


@pytest.mark.slow
def test_the_marked_commands_of_the_readme_run(shop: Path) -> None:
    assert {"student.int8.onnx", "shop.usearch"} <= {path.name for path in shop.iterdir()}


@pytest.mark.slow
def test_the_robot_of_the_examples_runs(shop: Path) -> None:
    words = [sys.executable, ROOT / "examples" / "robot.py", "walk.mp4", "shop.usearch"]
    done = subprocess.run(words, cwd=shop, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def run_commands(commands: list[str], folder: Path) -> None:
    """Run the command lines one after another in the folder, with this environment's commands first."""
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        words = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"


@pytest.fixture
def toy_commands() -> Mapping[str, click.Command]:
    @click.group()
    def index() -> None: ...

    @index.command()
    @click.argument("folder", type=click.Path(exists=True))
    @click.option("--levels", type=int)
    def add(folder: Path, levels: int) -> None:
        raise AssertionError

    return {"deepir-index": index, "deepir-add": add}


@pytest.mark.parametrize(
    "command",
    [
        "deepir-add photos --levels 2",
        "deepir-add photos --levels 2 | head -3",
        "deepir-add photos > out.json  # a comment",
        "deepir-index add 'my photos' --levels=2",
        "deepir-index --help",
    ],
)
def test_a_true_command_line_passes(
    command: str, toy_commands: Mapping[str, click.Command], any_path_exists: None
) -> None:
    parse(words_of(command), toy_commands)


@pytest.mark.parametrize(
    "command",
    [
        "deepir-add photos --depth 2",
        "deepir-add photos --levels two",
        "deepir-add",
        "deepir-add photos more",
        "deepir-index remove photos",
        "deepir-index add photos --depth 2",
        "deepir-gone photos",
    ],
)
def test_a_false_command_line_is_found(
    command: str, toy_commands: Mapping[str, click.Command], any_path_exists: None
) -> None:
    with pytest.raises((KeyError, click.UsageError)):
        parse(words_of(command), toy_commands)


def test_only_prompted_lines_of_a_console_block_are_commands() -> None:
    (block,) = blocks_of("text\n\n```console run\n$ deepir-add \\\n    photos\n42 added\n$ ls\n```\n")
    assert [words_of(command) for command in commands_of(block)] == [["deepir-add", "photos"], ["ls"]]
    assert (block.info, block.line) == (RUN, 4)


def test_every_line_of_a_bash_block_is_a_command() -> None:
    (block,) = blocks_of("```bash\n# first\ndeepir-add photos\n\nmake test\n```\n")
    assert commands_of(block) == ["deepir-add photos", "make test"]


def test_a_python_block_may_use_what_an_earlier_one_defined() -> None:
    assert run_python(blocks_of("```python\na = 1\n```\nand\n```python\nb = a + 1\n```\n"))["b"] == 2


def test_a_failing_python_block_shows_the_line_of_the_readme() -> None:
    with pytest.raises(ZeroDivisionError) as failure:
        run_python(blocks_of("one\ntwo\n```python\n1 / 0\n```\n"))
    assert failure.traceback[-1].lineno + 1 == 4


def test_a_failing_command_of_a_sequence_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cat absent"):
        run_commands(["touch there", "cat there", "cat absent"], tmp_path)
