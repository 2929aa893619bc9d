"""One picture over http or https: with limits on time and size, and decoded before it is believed."""

import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from deepir import __version__
from deepir.errors import InputError, OptionError
from deepir.image import decode_image

_MIB = 1 << 20
_CHUNK = 1 << 16
_PATIENCE = 10
"""A whole picture may take this many times the wait for an answer."""

_SCHEMES = ("http://", "https://")
_SUFFIXES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
_KEPT_IN_URLS = "%/:=&?~#+!$,;'@()*[]"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """Limits of the downloads.

    Attributes:
        threads: Pictures fetched at a time.
        timeout: Seconds to wait for an answer; a whole picture may take ten times as long.
        most_mib: Larger files are broken.
        retry_broken: Try again what an earlier run could not get.

    Raises:
        OptionError: A value out of range.
    """

    threads: int = 8
    timeout: float = 20.0
    most_mib: int = 32
    retry_broken: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.threads <= 64 and 0 < self.timeout <= 3600 and 1 <= self.most_mib <= 1024):
            message = (
                "downloads need 1 to 64 threads, a timeout above 0 and up to 3600 seconds, and 1 to 1024 MiB; "
                f"got {self.threads}, {self.timeout} and {self.most_mib}"
            )
            raise OptionError(message)


class Fetcher:
    """Fetches pictures, from several threads at once."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._opener = _http_only()
        # a small file may decode to gigabytes: one at a time
        self._decoding = threading.Lock()

    def fetch(self, url: str) -> bytes:
        """The bytes of the picture at `url`, which decode.

        Raises:
            InputError: Says why it cannot be had.
        """
        if not url.lower().startswith(_SCHEMES):
            message = f"not an http or https address: {url[:80]!r}"
            raise InputError(message)
        address, headers = urllib.parse.quote(url, safe=_KEPT_IN_URLS), {"User-Agent": f"deepir/{__version__}"}
        try:
            request = urllib.request.Request(address, headers=headers)  # noqa: S310 the scheme was checked above
            with self._opener.open(request, timeout=self._config.timeout) as response:
                content = self._read(response)
        except urllib.error.HTTPError as error:
            message = f"the server answers {error.code} {error.reason}"
            raise InputError(message) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            message = f"no answer: {getattr(error, 'reason', error) or type(error).__name__}"
            raise InputError(message) from error
        self._check_picture(content)
        return content

    def _read(self, response: Any) -> bytes:
        most, expected = self._config.most_mib * _MIB, response.length
        until = time.monotonic() + _PATIENCE * self._config.timeout
        content = bytearray()
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > most:
                message = f"larger than {self._config.most_mib} MiB"
                raise InputError(message)
            if time.monotonic() > until:
                message = f"took longer than {_PATIENCE * self._config.timeout:g} seconds"
                raise InputError(message)
        if expected is not None and len(content) != expected:
            message = f"cut short: {len(content)} of {expected} bytes"
            raise InputError(message)
        return bytes(content)

    def _check_picture(self, content: bytes) -> None:
        suffix_of(content)
        with self._decoding:
            decode_image(content, "the file")


def suffix_of(content: bytes) -> str:
    """The suffix of the file's format, by its first bytes.

    Raises:
        InputError: None of the formats that deepir reads.
    """
    suffix = next((suffix for start, suffix in _SUFFIXES.items() if content.startswith(start)), None)
    if suffix is None:
        message = f"not a picture: the file begins with {content[:16]!r}"
        raise InputError(message)
    return suffix


def _http_only() -> urllib.request.OpenerDirector:
    """The library's opener without files, ftp and data addresses, for a redirection may name those too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
