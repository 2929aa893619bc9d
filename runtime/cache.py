"""What this machine found out once and need not find out again: JSON records and compiled files in the user's cache."""

import hashlib
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

from deepir.errors import InputError
from deepir.files import replacing
from deepir.reading import usable_cores

_CPUINFO = Path("/proc/cpuinfo")
_NAME_FIELDS = ("model name", "CPU part", "Model")
_ABILITY_FIELDS = ("flags", "Features")
_KEY_LENGTH = 32

_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """`deepir` in $XDG_CACHE_HOME, else in ~/.cache; None for a user without a home. It need not exist."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepir"
    except RuntimeError:
        return None


def cache_key(*parts: object) -> str:
    """The name of what depends on all of `parts`, and on this machine's processor."""
    text = json.dumps([machine_name(), _abilities(), *map(str, parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


def machine_name() -> str:
    """The processor and how many of its cores may be used, in words."""
    name = next((value for field, value in _cpuinfo() if field in _NAME_FIELDS), "")
    return f"{name or platform.processor() or platform.machine()}, {usable_cores()} cores"


def keep(path: Path, content: bytes) -> bool:
    """Write a file of the cache, whole or not at all; whether it could be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, InputError) as error:
        _log.info("nothing kept in %s: %s", path.parent, error)
        return False
    return True


def keep_record(path: Path, schema: str, fields: dict[str, Any]) -> bool:
    """Write a JSON record; whether it could be written."""
    return keep(path, json.dumps({"schema": schema, **fields}, indent=1).encode())


def kept_record(path: Path, schema: str) -> dict[str, Any] | None:
    """Read what `keep_record` wrote; None when it is not there, damaged, or of another schema."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) and fields.get("schema") == schema else None


def _abilities() -> str:
    return next((value for field, value in _cpuinfo() if field in _ABILITY_FIELDS), platform.machine())


def _cpuinfo() -> list[tuple[str, str]]:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    pairs = (line.partition(":") for line in text.splitlines())
    return [(field.strip(), value.strip()) for field, _, value in pairs]
