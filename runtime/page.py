"""The live page of deepir-run: served beside the loop to browsers of this machine or, with a token, of others."""

import os
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import quote

from deepir.errors import OptionError
from deepir.optional import need
from deepir.runtime.page_address import PageAddress
from deepir.runtime.page_app import PageApp
from deepir.runtime.page_connection import MOST_WAITING, connection_class
from deepir.runtime.page_guard import Guard
from deepir.runtime.vitals import Vitals

if TYPE_CHECKING:
    import socket

    import uvicorn

TOKEN = "DEEPIR_PAGE_TOKEN"  # noqa: S105 the name of the variable
"""The environment variable that holds the token, which a command line would show to every user."""

_FAREWELL = 1
"""Seconds that requests in progress get at the end."""


class Page:
    """Shows a running loop to people, and its metrics to Prometheus.

    Who opens it wider than to this machine needs a token: the one given, or of the environment variable
    DEEPIR_PAGE_TOKEN, or one that is made and stands in `url`.

    Args:
        vitals: Of the loop.
        index_path: The file of its index, which views are enrolled into.
        address: Where to listen.
        token: What everybody must know.

    Raises:
        OptionError: A token that is empty.
    """

    def __init__(self, vitals: Vitals, index_path: Path, address: PageAddress, token: str | None = None) -> None:
        token = os.environ.get(TOKEN) if token is None else token
        if token is not None and not token.strip():
            message = f"the token of the page is empty: set {TOKEN} to some long word, or not at all"
            raise OptionError(message)
        self._address = address
        self._token = secrets.token_urlsafe(18) if token is None and not address.loopback else token
        self._app = PageApp(vitals, index_path)
        self._port = address.port
        self._server: uvicorn.Server | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """What to open, with the token when one is needed: show it to people, and keep it out of files."""
        address = self._address.url(self._port)
        return address if self._token is None else f"{address}?token={quote(self._token, safe='')}"

    def start(self) -> "Page":
        """Take the port and serve from now on.

        Raises:
            MissingDependency: Starlette or uvicorn is not installed.
            InputError: The port is taken.
        """
        uvicorn = need("uvicorn")
        app = self._app.asgi()
        self._socket = self._address.bind()
        self._port = self._socket.getsockname()[1]
        guard = Guard(app, loopback=self._address.loopback, token=self._token, port=self._port)
        config = uvicorn.Config(
            guard,
            loop="asyncio",
            http=connection_class(),
            backlog=MOST_WAITING,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_FAREWELL,
        )
        self._server = uvicorn.Server(config)
        # not in the main thread uvicorn leaves signals alone
        self._thread = threading.Thread(target=self._serve, name="deepir page", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Serve no more; browsers that still listen are let go."""
        self._app.feed.end()
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(2 * _FAREWELL)
        if self._socket is not None:
            self._socket.close()

    def __enter__(self) -> "Page":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        if self._server is not None and self._socket is not None:
            self._server.run(sockets=[self._socket])
