"""The node's parameters, checked once."""

import ctypes
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from deepir import DeepIRError
from deepir.errors import InputError, OptionError
from deepir.runtime import BackendOptions, Judgement, Recogniser
from deepir.runtime.vote import Vote


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What config/deepir.yaml lists; the defaults live here.

    Raises:
        OptionError: A value out of range.
    """

    index: str = ""
    model: str = ""
    engine_file_path: str = ""
    threshold: str = "auto"
    topk: int = 5
    vote: str = ""
    max_rate: float = 0.0
    backend: str = "auto"
    device: str = "auto"
    input_qos: str = "sensor_data"
    custom_plugin_lib: str = ""
    force_engine_update: bool = False

    def __post_init__(self) -> None:
        if not self.index:
            message = "the parameter index is empty: set it to the file that deepir-index wrote"
            raise OptionError(message)
        if self.input_qos not in ("sensor_data", "reliable"):
            message = f"the parameter input_qos must be sensor_data or reliable, got {self.input_qos!r}"
            raise OptionError(message)
        if not self.max_rate >= 0:
            message = f"the parameter max_rate must be 0 (no limit) or pictures per second, got {self.max_rate}"
            raise OptionError(message)
        # each refuses what it cannot be made of
        _ = self.judgement, self.votes, self.options

    @property
    def judgement(self) -> Judgement:
        """When an answer counts."""
        threshold: float | Literal["auto"] = "auto"
        if self.threshold != "auto":
            try:
                threshold = float(self.threshold)
            except ValueError:
                message = f"the parameter threshold must be auto or a number in quotes, got {self.threshold!r}"
                raise OptionError(message) from None
        return Judgement(threshold=threshold, top_labels=self.topk)

    @property
    def votes(self) -> Vote | None:
        """How many of the last pictures must agree; None where each decides alone."""
        return Vote.parse(self.vote) if self.vote else None

    @property
    def period(self) -> float:
        """Least seconds from one picture to the next."""
        return 1 / self.max_rate if self.max_rate else 0.0

    @property
    def options(self) -> BackendOptions:
        """How the model runs."""
        return BackendOptions(
            backend=self.backend,  # type: ignore[arg-type]
            device=self.device,  # type: ignore[arg-type]
            rebuild="always" if self.force_engine_update else "auto",
        )

    def open(self) -> Recogniser:
        """Load the index and its model, and warm the model up.

        Raises:
            DeepIRError: One of them cannot be loaded.
        """
        if self.custom_plugin_lib:
            _load_plugins(Path(self.custom_plugin_lib))
        model = self.engine_file_path or self.model or None
        recogniser = Recogniser.open(self.index, model, judgement=self.judgement, options=self.options)
        try:
            recogniser.warmup()
        except DeepIRError:
            recogniser.close()
            raise
        return recogniser


DEFAULTS: dict[str, Any] = {one.name: one.default for one in fields(Settings)}
"""Every parameter that is read when the node is configured."""


def _load_plugins(path: Path) -> None:
    # TensorRT finds the plug-ins of any library that is loaded before the engine
    try:
        ctypes.CDLL(str(path.resolve()), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        message = f"custom_plugin_lib {path} cannot be loaded: {error}"
        raise InputError(message) from error
