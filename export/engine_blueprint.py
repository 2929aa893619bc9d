"""Everything that is decided before a build starts: shared by the build itself and by --dry-run."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deepir.calib.onnx_file import read_card
from deepir.calib.quantise import int8_share
from deepir.card import ModelCard
from deepir.errors import EngineError, InputError, MissingDependency
from deepir.export.engine_config import DEFAULT_CAPABILITIES, BuildConfig, capability_number
from deepir.export.engine_head import head_border
from deepir.export.engine_machine import Gpu, HostMemory, host_memory, this_gpu
from deepir.export.engine_memory import MemoryPlan, estimate_mib, plan_memory
from deepir.export.engine_names import engine_name
from deepir.export.engine_network import is_weak
from deepir.export.engine_profiles import Profiles, plan_profiles
from deepir.export.engine_request import BuildRequest
from deepir.export.engine_timing import TimingCache, timing_cache
from deepir.runtime.roi_plugin import plugin_problem
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt, tensorrt_version
from deepir.spec import Numerics

_PIXEL_BYTES = 4
_AMPERE = (8, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What a build will do.

    Attributes:
        onnx, engine: The file it is made from, and where the plan goes.
        card: Of the file.
        version: TensorRT's.
        gpu: None for TensorRT-RTX without one.
        memory: Of the host, as it is now.
        needs: Memory and workspace of the build.
        plugin: Whether the pooling is done by our plugin.
        weak: Whether TensorRT chooses the precision of each layer, as INT8 on 10.x wants it.
        capabilities: TensorRT-RTX's, the lowest first.
        int8_share: Share of the file's convolutions, 0..1, that are INT8; calibration may keep some in FP16.
        notes: Remarks for people.
    """

    onnx: Path
    engine: Path
    card: ModelCard
    config: BuildConfig
    version: str
    gpu: Gpu | None
    memory: HostMemory | None
    needs: MemoryPlan
    plugin: bool
    weak: bool
    profiles: Profiles
    capabilities: tuple[str, ...]
    int8_share: float
    timing: TimingCache | None
    notes: tuple[str, ...]

    def request(self, proto: Any, folder: Path, measured: bytes | None) -> BuildRequest:
        """The words for the process that builds; files lie in `folder`.

        Args:
            proto: The ONNX file as it is, with its functions.
            folder: Of this build alone.
            measured: TensorRT's timing cache, already written to `folder`/timing.in.
        """
        return BuildRequest(
            onnx=str(folder / "model.onnx"),
            plan=str(folder / "plan"),
            flavour=self.config.flavour.value,
            int8=self.card.numerics is Numerics.INT8,
            plugin=self.plugin,
            profiles=[
                {name: [list(shape) for shape in shapes] for name, shapes in profile.items()}
                for profile in self.profiles.profiles
            ],
            workspace_mib=self.needs.workspace,
            portable=self.config.portable,
            compute_capabilities=list(self.capabilities),
            ampere=self.gpu is None or capability_number(self.gpu.info.compute_capability) >= _AMPERE,
            convolutions=[node.name for node in proto.graph.node if node.op_type == "Conv"],
            head=head_border(proto),
            timing_in="" if measured is None else str(folder / "timing.in"),
            timing_out="" if self.timing is None else str(folder / "timing.out"),
        )


def draw_blueprint(onnx: Path, out: Path, config: BuildConfig, proto: Any) -> Blueprint:
    """Decide everything; nothing is written.

    Raises:
        InputError: The folder of the engine is not there.
        ModelError: The file has no card, or other inputs than it tells of.
        OptionError: A batch that the file does not take.
        MissingDependency: No TensorRT, or for full TensorRT no GPU.
        EngineError: `plugin` was asked for and cannot be had.
        MemoryLimitError: The memory cannot suffice.
    """
    card = read_card(proto)
    trt = load_tensorrt(config.flavour)
    version, gpu = tensorrt_version(trt), _gpu(config.flavour)
    engine = (
        out / engine_name(onnx, version, None if gpu is None else gpu.info, config.flavour) if out.is_dir() else out
    )
    if not engine.parent.is_dir():
        message = f"no such folder: {engine.parent}; create it or give another with -o"
        raise InputError(message)
    profiles = plan_profiles(proto, card, config.batch)
    memory = host_memory()
    pixel_bytes = 1 if card.pixels == "uint8" else _PIXEL_BYTES
    needed = estimate_mib(onnx.stat().st_size, profiles.largest_bytes(pixel_bytes))
    needs = plan_memory(needed, config.workspace_mib, memory, None if gpu is None else gpu.info.memory_mib)
    plugin, remark = _route(trt, config, proto)
    return Blueprint(
        onnx=onnx,
        engine=engine,
        card=card,
        config=config,
        version=version,
        gpu=gpu,
        memory=memory,
        needs=needs,
        plugin=plugin,
        weak=card.numerics is Numerics.INT8 and is_weak(trt),
        profiles=profiles,
        capabilities=_capabilities(config, gpu),
        int8_share=int8_share(proto),
        timing=_timing(config, gpu, version),
        notes=tuple(note for note in (remark, needs.warning, _speed_note(config)) if note),
    )


def blueprint_text(blueprint: Blueprint) -> str:
    """Lines for people: what would be done, with what, and where it would go."""
    card, config, needs = blueprint.card, blueprint.config, blueprint.needs
    library = "TensorRT-RTX" if config.flavour is Flavour.RTX else "TensorRT"
    gpu = blueprint.gpu
    target = (
        f"compute capability {', '.join(blueprint.capabilities)}"
        if blueprint.capabilities
        else f"{gpu.info.name} ({gpu.info.compute_capability}), CUDA {gpu.cuda_version}"
        if gpu
        else "this machine"
    )
    typing = "weakly typed with an FP32 head" if blueprint.weak else "strongly typed"
    memory = blueprint.memory
    lines = [
        f"engine     {blueprint.engine}{' (replaces the one there)' if blueprint.engine.exists() else ''}",
        f"from       {blueprint.onnx}: {card.spec.backbone}, model {card.spec.fingerprint}, {card.numerics.value}",
        f"with       {library} {blueprint.version} for {target}, {typing}",
        f"pooling    {'plugin' if blueprint.plugin else 'native'}",
        *(f"shapes     {_profile_text(profile)}" for profile in blueprint.profiles.profiles),
        f"memory     about {needs.needed} MiB and a workspace of {needs.workspace} MiB"
        + ("" if memory is None else f"; {memory.available} MiB are available"),
        f"portable   {config.portable}",
        f"timing     {'no cache' if blueprint.timing is None else blueprint.timing.path}",
        *(f"note       {note}" for note in blueprint.notes),
    ]
    return "\n".join(lines)


def _profile_text(profile: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {' '.join(dict.fromkeys('x'.join(map(str, shape)) for shape in shapes))}"
        for name, shapes in profile.items()
    )


def _gpu(flavour: Flavour) -> Gpu | None:
    try:
        return this_gpu()
    except MissingDependency:
        if flavour is Flavour.TENSORRT:
            raise
        return None


def _route(trt: ModuleType, config: BuildConfig, proto: Any) -> tuple[bool, str]:
    """Whether the plugin is used, and a remark when it would have been better."""
    has_pool = bool(head_border(proto)["max_pools"])
    if config.pool == "native" or config.flavour is Flavour.RTX:
        return False, ""
    problem = plugin_problem(trt) if has_pool else "this model has no RoI max pool for the plugin to do"
    if problem is None:
        return True, ""
    if config.pool == "plugin":
        message = f"the plugin cannot be used: {problem}"
        raise EngineError(message)
    return False, f"pooling in standard operators: {problem}" if has_pool else ""


def _capabilities(config: BuildConfig, gpu: Gpu | None) -> tuple[str, ...]:
    if config.flavour is not Flavour.RTX:
        return ()
    own = DEFAULT_CAPABILITIES if gpu is None else (gpu.info.compute_capability,)
    return tuple(sorted(config.compute_capabilities or own, key=capability_number))


def _timing(config: BuildConfig, gpu: Gpu | None, version: str) -> TimingCache | None:
    if not config.timing_cache or config.flavour is Flavour.RTX or gpu is None:
        return None
    return timing_cache(gpu.info, version, gpu.cuda_version)


def _speed_note(config: BuildConfig) -> str:
    if config.portable == "none":
        return ""
    return f"--portable {config.portable} costs speed: TensorRT leaves out what only this version or GPU can do"
