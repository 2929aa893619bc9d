"""Who may ask the live page: hosts, tokens, origins; and the headers that keep others' scripts out of it."""

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCKED = "deepir.locked"
"""The entry of a request's scope that says: show the page, but only to ask for the token."""

_OPEN = frozenset({"/page.css", "/page.js", "/icon.svg", "/healthz"})
"""Tell nothing that is not in every copy of deepir, but whether it is well."""

_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

_Fault = tuple[int, str]


class Guard:
    """Lets a request through to the page, or answers it with a sentence.

    Args:
        app: The page.
        loopback: Whether only this machine reaches it: then other names for it are refused, because a foreign web site
            may have its own name point here (DNS rebinding).
        token: What everybody must know; None where nobody needs to know anything.
        port: For the name of the cookie: cookies do not tell ports apart.
    """

    def __init__(self, app: "ASGIApp", *, loopback: bool, token: str | None, port: int) -> None:
        self._app = app
        self._loopback = loopback
        self._token = token
        # whatever characters the token has, and whoever reads the browser's files does not read it
        self._pass = None if token is None else hashlib.sha256(token.encode()).hexdigest()
        self._cookie = f"deepir_{port}"

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        fault = self._foreign(scope, headers)
        added = dict(_HEADERS)
        if fault is None and self._token is not None and scope["path"] not in _OPEN:
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if _same(asked, self._token):
                added["set-cookie"] = f"{self._cookie}={self._pass}; Path=/; HttpOnly; SameSite=Strict"
            elif not self._knows(headers):
                if scope["path"] == "/":
                    scope[LOCKED] = True
                else:
                    fault = (401, "this page needs its token: open the address that deepir-run printed")
        await self._answer(fault, added, (scope, receive, send))

    def _foreign(self, scope: "Scope", headers: Mapping[str, str]) -> _Fault | None:
        """Why a request comes from where none may come."""
        host = headers.get("host", "")
        if self._loopback and not _means_here(host):
            return 403, f"this page is for this machine alone: ask for localhost, not for {host[:200]!r}"
        if scope["method"] in {"GET", "HEAD"}:
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, "send application/json"
        site, origin = headers.get("sec-fetch-site", "same-origin"), headers.get("origin")
        if site != "same-origin" or (origin is not None and origin.partition("://")[2] != host):
            return 403, "only the page itself may change something"
        return None

    def _knows(self, headers: Mapping[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), self._token or ""):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self._pass or "")

    async def _answer(
        self, fault: _Fault | None, added: Mapping[str, str], request: "tuple[Scope, Receive, Send]"
    ) -> None:
        scope, receive, send = request

        async def sent(message: "Message") -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                more = {"cache-control": "no-store", **added}
                given = [(name.encode(), value.encode()) for name, value in more.items()]
                message["headers"] = [*message["headers"], *(pair for pair in given if pair[0] not in names)]
            await send(message)

        if fault is None:
            await self._app(scope, receive, sent)
            return
        status, sentence = fault
        body = json.dumps({"error": sentence}).encode()
        kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await sent({"type": "http.response.start", "status": status, "headers": kind})
        await sent({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _same(given: str, wanted: str) -> bool:
    # as bytes: characters beyond ASCII are refused otherwise
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace")) and bool(wanted)


def _means_here(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
