"""deepir-run with places for its answers: options read, contradictions refused, and answers really there."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from deepir.image import Image
from deepir.runtime.sinks import SinkOptions

Command = Callable[..., Result]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--webhook", "ftp://robot:secret@host/"], "--webhook takes an http:// or https:// address"),
        (["--mqtt", "mqtt://robot:secret@host"], "--mqtt takes mqtt://host/topic"),
        (["--inbox", "inbox", "--inbox-mb", "0"], "--inbox-mb must be above 0"),
        (["--inbox", "inbox", "--inbox-mb", "inf"], "--inbox-mb must be above 0"),
    ],
)
def test_what_cannot_be_is_one_sentence_without_a_password(
    words: list[str], sentence: str, shop: Path, catalogue: Path, deepir_run: Command
) -> None:
    result = deepir_run(catalogue, "--index", shop, *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "secret" not in result.output


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load the last answers may need longer than a program has at its end."""
    monkeypatch.setattr("deepir.runtime.delivery._FAREWELL", 60.0)
    monkeypatch.setattr("deepir.runtime.sinks._CLOSING", 120.0)


@pytest.mark.usefixtures("patient")
def test_every_answer_is_posted_and_uncertain_pictures_wait_for_review(
    shop: Path,
    catalogue: Path,
    tmp_path: Path,
    deepir_run: Command,
    deepir_index: Command,
    write_picture: Callable[[Path, Image], Path],
) -> None:
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    stripes = np.zeros((48, 64, 3), np.uint8)
    stripes[::8] = 255
    write_picture(catalogue / "zz.png", stripes)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    words = ["--webhook", address, "--send", "all", "--inbox", tmp_path / "inbox", "--threshold", "0.999"]
    result = deepir_run(catalogue, "--index", shop, *words)
    server.shutdown()
    server.server_close()
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert taken == lines
    unknown = [line for line in lines if line["status"] == "unknown"]
    assert unknown
    assert 1 <= len(list((tmp_path / "inbox").iterdir())) <= len(unknown)
    reviewed = deepir_index("review", shop, tmp_path / "inbox", "--json")
    assert reviewed.exit_code == 0, reviewed.output


def test_the_options_do_not_show_a_password_where_they_are_printed() -> None:
    options = SinkOptions(webhook="http://robot:secret@host/", mqtt="mqtt://robot:secret@host/topic")
    assert "secret" not in repr(options)
