"""Dimension reduction without labels: a layer of fewer values learns the distances of the full descriptors.

The pair loss of method.md 4.5 in its two forms. `serial` puts a shift, a fully connected layer and L2 after the
descriptor; `parallel` trains a smaller whitening beside the frozen one, which it then replaces.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepir.distill.checkpoint import Model
from deepir.distill.choices import REDUCTIONS
from deepir.distill.device import Device
from deepir.distill.epochs import Figures, Progress, run_epochs
from deepir.distill.layers import WhiteningLayer, normalise
from deepir.distill.optimise import Descent, Divergence
from deepir.distill.pair_losses import pair_log_sum_loss, pair_loss
from deepir.distill.reduce_inputs import ReductionInputs, parallel_inputs, serial_inputs
from deepir.distill.views import View
from deepir.errors import OptionError

_BIAS_FACTOR = 2
"""Biases and shifts learn twice as fast (method.md 4.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceConfig:
    """How a descriptor is reduced.

    Attributes:
        dims: Values of each stage, falling; each stage starts from the first rows of the one before it.
        form: One of `deepir.distill.choices.REDUCTIONS`.
        log_sum: Take the logarithm of the sum of exponentials of the pairs' losses, which weighs the worst pairs most.
        epochs: Of each stage.
        learning_rate: Peak of a one-cycle schedule, for weights whose root mean square is 1.
    """

    dims: tuple[int, ...] = (512, 256)
    form: str = "serial"
    log_sum: bool = False
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.dims or min(self.dims) < 1 or list(self.dims) != sorted(set(self.dims), reverse=True):
            message = f"dims must be numbers from 1 on that fall, as 512, 256; got {self.dims}"
            raise OptionError(message)
        if self.form not in REDUCTIONS:
            message = f"the form of a reduction must be one of {', '.join(REDUCTIONS)}, got {self.form!r}"
            raise OptionError(message)
        if self.epochs < 1 or self.batch < 2 or not 0 < self.learning_rate < math.inf:
            message = (
                "epochs must be 1 or more, batch 2 or more and learning_rate positive, got "
                f"{self.epochs}, {self.batch}, {self.learning_rate}"
            )
            raise OptionError(message)


def reduce_model(
    model: Model, views: Sequence[View], config: ReduceConfig, cache: Path, progress: Progress, device: Device
) -> Model:
    """A copy of a model that gives fewer values, trained on what it sees of unlabelled pictures.

    The trunk runs once over the views; the layer is trained on what it gave, a stage for each of `config.dims`. Every
    stage learns the distances of the full descriptors, and only its own layer learns: in the serial form weights,
    bias and shift, in the parallel form weights and bias.

    Args:
        model: In evaluation mode, on `device`.
        views: More of them than the largest of `config.dims`.
        config: Dimensions, form and schedule.
        cache: A folder for what the model gave, as that of `deepir.distill.teachers.make_targets`.
        progress: Where state and figures go.
        device: Where the layer is trained.

    Raises:
        InputError: A picture that cannot be read, or a cache that cannot be written.
        OptionError: A dimension that is not smaller than the model's, a head that the parallel form cannot take, or a
            learning rate at which training diverged.
        ShapeError: Fewer views than values.
    """
    if config.dims[0] >= model.network.dim:
        message = f"a descriptor of {model.network.dim} values cannot be reduced to {config.dims[0]}: give fewer values"
        raise OptionError(message)
    find = serial_inputs if config.form == "serial" else parallel_inputs
    inputs = find(model, views, config.dims[0], cache, progress.report)
    stages = _Stages(inputs, config, device)
    run_epochs(
        progress,
        {"stages": stages},
        epochs=len(config.dims) * config.epochs,
        seed=config.seed,
        train_epoch=stages.train_epoch,
    )
    return _with_layer(model, stages.layer, config, len(views))


class _Stages:
    """The layer in training, stage after stage."""

    def __init__(self, inputs: ReductionInputs, config: ReduceConfig, device: Device) -> None:
        self._inputs = inputs
        self._config = config
        self._device = device
        self._stage = 0
        self.layer = self._begin(inputs.start, config.dims[0])

    def train_epoch(self, epoch: int) -> Figures:
        """One pass over the views, in an order that depends on seed and epoch alone."""
        stage, number = divmod(epoch, self._config.epochs)
        if stage > self._stage:
            self._stage = stage
            self.layer = self._begin(self.layer, self._config.dims[stage])
        order = np.random.default_rng([self._config.seed, epoch]).permutation(len(self._inputs.rows))
        count = max(1, len(order) // self._config.batch)
        losses = []
        for step, batch in enumerate(np.array_split(order, count)):
            self._descent.start((number + step / count) / self._config.epochs)
            loss = self._loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            try:
                self._descent.step()
            except Divergence as problem:
                message = (
                    f"{problem} in epoch {epoch + 1}, step {step + 1}: the state of the epoch before is kept, "
                    "resume with a smaller learning rate"
                )
                raise OptionError(message) from problem
            losses.append(float(loss.detach()))
        return {"dim": self.layer.out_features, "loss": sum(losses) / len(losses)}

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self._stage, "layer": self.layer.state_dict(), "descent": self._descent.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._stage = state_dict["stage"]
        self.layer = self._begin(self._inputs.start, self._config.dims[self._stage])
        self.layer.load_state_dict(state_dict["layer"])
        self._descent.load_state_dict(state_dict["descent"])

    def _begin(self, before: WhiteningLayer, dim: int) -> WhiteningLayer:
        """The first rows of a layer, at a scale at which steps are small against the weights, and its optimiser."""
        serial = self._config.form == "serial"
        layer = WhiteningLayer(before.in_features, dim, shifted=serial or before.shift is not None)
        with torch.no_grad():
            layer.weight.copy_(before.weight[:dim])
            layer.bias.copy_(before.bias[:dim])
            # the L2 that follows makes the scale free
            scale = layer.weight.square().mean().sqrt()
            layer.weight.div_(scale)
            layer.bias.div_(scale)
            for own, former in ((layer.shift, before.shift), (layer.scale, before.scale)):
                if own is not None and former is not None:
                    own.copy_(former)
        if layer.shift is not None:
            # of the whitening beside it, which stays as it is
            layer.shift.requires_grad_(serial)
        layer = layer.to(self._device.name)
        trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
        rate = self._config.learning_rate
        groups = [
            ([parameter for parameter in trained if parameter.ndim == 2], rate),
            ([parameter for parameter in trained if parameter.ndim == 1], rate * _BIAS_FACTOR),
        ]
        self._descent = Descent(groups, weight_decay=self._config.weight_decay)
        return layer

    def _loss(self, batch: np.ndarray[Any, np.dtype[np.intp]]) -> Tensor:
        rows = [self._inputs.rows[number] for number in batch]
        owners = np.repeat(np.arange(len(rows)), [len(regions) for regions in rows])
        vectors = self.layer(torch.from_numpy(np.concatenate(rows)).to(self._device.name))
        vectors = normalise(vectors.relu() if self._inputs.relu else vectors)
        sums = vectors.new_zeros(len(rows), vectors.shape[1])
        descriptors = normalise(sums.index_add(0, torch.from_numpy(owners).to(vectors.device), vectors))
        targets = torch.from_numpy(self._inputs.targets_nd[batch]).to(vectors.device)
        return pair_log_sum_loss(descriptors, targets) if self._config.log_sum else pair_loss(descriptors, targets)


def _with_layer(model: Model, layer: WhiteningLayer, config: ReduceConfig, count: int) -> Model:
    """The deployed form: the layer as the one projection, or in place of the whitening."""
    network = copy.deepcopy(model.network)
    layer = layer.requires_grad_(True).to(next(network.parameters()).device)
    if config.form == "serial":
        network.projection = layer
    else:
        network.master.whitening = layer
    stages = ", ".join(map(str, config.dims))
    words = f"reduced from {model.network.dim} to {stages} values ({config.form} pair loss) on {count} views"
    return Model(network.eval(), model.spec).sealed(whitening=f"{model.spec.whitening}; {words}")
