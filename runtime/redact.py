"""Addresses as they may be shown: without user, password or token."""

import re

_WORDS = r"(?:pass(?:word|wd|phrase)?|pwd|pw|user-pw|(?:\w*_?)token|api_?key|secret|auth\w*|sig(?:nature)?)"
_IN_QUERY = re.compile(rf"(?i)((?<![a-z0-9]){_WORDS}=)(?:\"[^\"]*\"|'[^']*'|[^&;#\s]*)")

_BEGINS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def without_password(address: str) -> str:
    """The address with *** for user and password before the @, and for what ?password=, token= and their like hold.

    Rather too much is hidden than too little: an address may come out of an error message, or be misspelt.
    """
    if address.startswith("test://"):
        return address
    # up to the last @, because a password may hold / and @ itself
    hidden = re.sub(r"(?s)(?<=//).*@", "***@", address)
    if not _BEGINS.match(address):
        # written without //, or with one /
        hidden = re.sub(r"(?s)^((?:[a-z]+:)?/?)[^/\s*][^/\s]*:.*@", r"\1***@", hidden)
    return _IN_QUERY.sub(r"\1***", hidden)
