"""How sensitive is each layer to quantisation? Measured on the student's own trajectories, and turned into a precision plan.

One layer at a time is stored in fewer bits (its input too, for 8-bit activations), everything else left in fp32, and its
component's output is compared with the fp32 output on the inputs recorded while the student drew. That error, as a share of the
output's variance, is converted to an error of pictures by a factor per component, measured by drawing with noise on the component's
output. Errors of independent layers add up, so a plan is a choice per layer that minimises error + λ·bytes (Shoham & Gersho 1988,
doi:10.1109/29.90373), and λ is found by bisection: for a size by adding up bytes, for an LPIPS by drawing.

Inputs are fixed to the student's own: in a free rollout a picture between two outcomes may tip to the other, which would dominate
the mean.

Not here: storing (the converters), the plan's file (`plan`), the encoder of pictures, which the student does not use as it draws
from text: plans store it by their default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genin.benchmarks.quality.perceptual import load_lpips
from genin.distill.models.folder import ModelFolder
from genin.export.checks.pictures import Drawn, draw, draw_with_pytorch
from genin.export.components import Case, modules, run_module
from genin.export.converters.quantise import activations, eight_bits, palette
from genin.export.precision_plan import BITS, PALETTES, Plan, Storage, layers_of, may_have_eight
from genin.export.prompt_set import Amount
from genin.runtimes.cancellation import Uninterruptible
from genin.runtimes.engine import Array, Engine
from genin.runtimes.errors import InputError
from genin.runtimes.pytorch_engine import Networks, PyTorchEngine
from genin.runtimes.tensors import OUTPUTS
from genin.runtimes.vocabulary import COMPONENTS

NOISE = 1e-3  # share of a component's variance, for its factor
ROUNDS = 24  # of bisection for a size; ROUNDS_DRAWN for an LPIPS, each of which draws
ROUNDS_DRAWN = 7
Progress = Callable[[str], None]


Span = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Layer:
    """One layer: how many numbers and output channels its weight has, and the mean squared error of pictures (in [−1, 1]) that each
    storage costs; `macs` for one picture; `span` the ranges of its input and output."""

    component: str
    name: str
    numbers: int
    channels: int
    macs: int
    span: Span
    error: Mapping[Storage, float]

    def bytes(self, storage: Storage) -> float:
        """The size of its weights as stored, including scales and tables."""
        table = (
            2 * 2 ** BITS[storage.weights]
            if storage.weights in PALETTES
            else 4 * self.channels * (storage.weights == "int8")
        )
        return self.numbers * BITS[storage.weights] / 8 + table


@dataclass(frozen=True)
class Sensitivity:
    """All layers of a model; `others` is the size of all other tensors, `reference` are PyTorch's pictures."""

    model: ModelFolder
    reference: Drawn
    layers: tuple[Layer, ...]
    others: int

    def bytes(self, plan: Plan) -> float:
        return self.others + sum(layer.bytes(storage) for layer, storage in self.storage_per_layer(plan))

    def error(self, plan: Plan) -> float:
        """The error of pictures, as a sum over layers; layers that were not measured count as 0."""
        return sum(layer.error.get(storage, 0.0) for layer, storage in self.storage_per_layer(plan))

    def lpips(self, plan: Plan) -> float:
        """LPIPS of the pictures that a plan draws in PyTorch. Errors: MetricUnavailableError without LPIPS's weights."""
        metric, networks = load_lpips("squeeze"), modules(self.model)
        with ExitStack() as stack:
            for layer, storage in self.storage_per_layer(plan):
                stack.enter_context(stored_as(networks[layer.component].get_submodule(layer.name), storage, layer.span))
            drawn = draw_with_pytorch(self.model, Amount.of(self.model))
        return float(metric(drawn.pictures, self.reference.pictures).mean())

    def storage_per_layer(self, plan: Plan) -> Iterator[tuple[Layer, Storage]]:
        """Every layer and how the plan stores it."""
        storages = {name: plan.storage_per_layer(name, network) for name, network in modules(self.model).items()}
        return ((layer, storages[layer.component][layer.name]) for layer in self.layers)


def measure(model: ModelFolder, kinds: Sequence[Storage], progress: Progress = lambda _: None) -> Sensitivity:
    """Run every layer in every storage of `kinds`. `progress` is called for each layer; see `count_layers`.

    Errors: InputError for a network whose output is constant: errors are shares of its variance.
    """
    progress("drawing")
    reference = draw_with_pytorch(model, Amount.of(model))
    networks = modules(model)
    factors = _factors(model, reference)
    found = []
    for component in COMPONENTS:
        network, cases, outputs = networks[component].eval(), reference.inputs[component], OUTPUTS[component]
        wanted = [run_module(network, case, outputs)[outputs[0]] for case in cases]
        variance = float(np.mean([np.var(array) for array in wanted]))
        if variance == 0:
            raise InputError(
                f"the {component}'s output is constant, so its layers cannot be compared",
                where=model.path,
                remedy="train the model first",
            )
        names = list(layers_of(network))
        ranges, macs = _ranges(component, network, names, cases), _macs(component, network, names, cases[0])
        for name in names:
            progress(name)
            module: Any = network.get_submodule(name)
            error = {}
            for storage in kinds:
                if storage.activations == "int8" and not may_have_eight(name, names):
                    continue
                with stored_as(module, storage, ranges[name]):
                    got = [run_module(network, case, outputs)[outputs[0]] for case in cases]
                squared = float(np.mean([np.mean(np.square(a - b)) for a, b in zip(got, wanted, strict=True)]))
                error[storage] = factors[component] * squared / variance
            weight = module.weight
            found.append(Layer(component, name, weight.numel(), len(weight), macs[name], ranges[name], error))
    inside = sum(layer.numbers for layer in found)
    total = sum(p.numel() for name in COMPONENTS for p in networks[name].parameters())
    return Sensitivity(model, reference, tuple(found), 4 * (total - inside))


def count_layers(model: ModelFolder) -> int:
    """How often `measure` calls `progress`."""
    networks = modules(model)
    return 1 + sum(len(layers_of(networks[name])) for name in COMPONENTS)


# --- a layer in fewer bits -------------------------------------------------------------------------------------------


@contextmanager
def stored_as(module: nn.Module, storage: Storage, span: Span) -> Iterator[None]:
    """Inside the block a layer computes as if it were stored that way; 8-bit activations apply to its input and output, over the
    ranges of `span`."""
    weight: Any = module.weight
    exact = weight.data
    hooks = []
    if storage.activations == "int8":
        input_scale, output_scale = (activations(*ends) for ends in span)

        def round_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (_rounded(inputs[0], *input_scale), *inputs[1:])

        def round_output(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return _rounded(output, *output_scale)

        hooks = [module.register_forward_pre_hook(round_input), module.register_forward_hook(round_output)]
    try:
        if storage.weights != "fp32":
            weight.data = torch.from_numpy(_narrow(exact.numpy(), storage.weights))
        yield
    finally:
        weight.data = exact
        for hook in hooks:
            hook.remove()


def _rounded(values: Tensor, scale: float, zero: int) -> Tensor:
    return ((values / scale).round().add(zero).clamp(0, 255) - zero) * scale


def _narrow(weights: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    if kind in PALETTES:
        return palette(weights, BITS[kind])
    if kind == "int8":
        return eight_bits(weights, 0)  # PyTorch's weights have their output channels first
    return weights.astype(np.float16).astype(np.float32) if kind == "fp16" else weights


def _ranges(component: str, network: nn.Module, names: Sequence[str], cases: Sequence[Case]) -> dict[str, Span]:
    """Lowest and highest value of each layer's input, and of its output."""
    found: dict[str, Span] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            (low, high), (least, most) = found.get(name, ((0.0, 0.0), (0.0, 0.0)))
            input_range = min(low, float(inputs[0].min())), max(high, float(inputs[0].max()))
            found[name] = input_range, (min(least, float(output.min())), max(most, float(output.max())))

        return hook

    handles = [network.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        for case in cases:
            run_module(network, case, OUTPUTS[component])
    finally:
        for handle in handles:
            handle.remove()
    return {name: found.get(name, ((0.0, 0.0), (0.0, 0.0))) for name in names}


def _macs(component: str, network: nn.Module, names: Sequence[str], case: Case) -> dict[str, int]:
    """Multiply-adds of each layer for one row of a batch: the elements of a weight times the positions that it is applied at."""
    found, outputs = dict.fromkeys(names, 0), OUTPUTS[component]

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, _inputs: Any, output: Tensor) -> None:
            if not isinstance(module, nn.Embedding):
                found[name] += output[0].numel() // len(module.weight) * module.weight.numel()

        return hook

    handles = [network.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        run_module(network, case, outputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


# --- from a component's error to a picture's -------------------------------------------------------------------------


def _factors(model: ModelFolder, reference: Drawn) -> dict[str, float]:
    """Component => mean squared error of pictures, in [−1, 1], for noise with its output's variance, of the median picture."""
    engine = PyTorchEngine(Networks(model.text_encoder, model.unet, model.vae))
    found = {}
    for component in COMPONENTS:
        drawn = draw(model.path, _Noisy(engine, component), Amount.of(model)).pictures
        wrong = np.square((drawn.astype(np.float64) - reference.pictures) / 127.5).mean(axis=(1, 2, 3))
        found[component] = float(np.median(wrong)) / NOISE
    return found


class _Noisy(Uninterruptible):
    """An engine that adds noise to one network's output."""

    def __init__(self, engine: Engine, component: str) -> None:
        self.provider, self._engine, self._component = engine.provider, engine, component
        self._random = np.random.default_rng(0)

    def encode(self, ids: NDArray[np.int64]) -> Array:
        return self._with_noise("text_encoder", self._engine.encode(ids))

    def predict(self, latents: Array, timestep: int, text: Array) -> Array:
        return self._with_noise("unet", self._engine.predict(latents, timestep, text))

    def decode(self, latents: Array) -> Array:
        return self._with_noise("vae_decoder", self._engine.decode(latents))

    def encode_picture(self, pictures: Array) -> Array:
        return self._engine.encode_picture(pictures)

    def close(self) -> None:
        pass  # the engine is used again

    def _with_noise(self, component: str, values: Array) -> Array:
        if component != self._component:
            return values
        noise = self._random.standard_normal(values.shape, np.float32)
        return values + np.float32((NOISE * values.var()) ** 0.5) * noise


# --- choosing --------------------------------------------------------------------------------------------------------


def plan_for_size(found: Sensitivity, kinds: Sequence[Storage], size_bytes: float, name: str) -> Plan:
    """The plan of least error among those of at most `size_bytes`. Errors: InputError if none is that small."""
    smallest = _at(found, kinds, float("inf"), name)
    if found.bytes(smallest) > size_bytes:
        what = f"the weights take at least {found.bytes(smallest) / 1e6:.2f} MB, more than {size_bytes / 1e6:.2f} MB"
        raise InputError(what, remedy="allow weights of fewer bits (palette6, palette4), or a larger size")
    best = smallest
    low, high = _prices(found, kinds)
    for price in (0.0, low):
        if found.bytes(plan := _at(found, kinds, price, name)) <= size_bytes:
            return plan
    for _ in range(ROUNDS):
        price = (low * high) ** 0.5
        plan = _at(found, kinds, price, name)
        if found.bytes(plan) <= size_bytes:
            best, high = plan, price
        else:
            low = price
    return best


def plan_for_lpips(found: Sensitivity, kinds: Sequence[Storage], limit: float, name: str) -> Plan:
    """The smallest plan whose pictures are within `limit` of the model's own, drawn in PyTorch. Errors: InputError if none is."""
    exact = _at(found, kinds, 0.0, name)
    if (least := found.lpips(exact)) > limit:
        what = f"the widest weights allowed are at LPIPS {least:.4f} already, not within {limit:g}"
        raise InputError(what, remedy="allow wider ones (fp16, int8)")
    best = exact
    low, high = _prices(found, kinds)
    for _ in range(ROUNDS_DRAWN):
        price = (low * high) ** 0.5
        plan = _at(found, kinds, price, name)
        if found.lpips(plan) <= limit:
            best, low = plan, price
        else:
            high = price
    smallest = _at(found, kinds, float("inf"), name)
    return smallest if found.lpips(smallest) <= limit else best


def with_eight_bit_activations(found: Sensitivity, plan: Plan, limit: float) -> Plan:
    """The plan with 8-bit activations in as many layers as pictures within `limit` allow: starting with those that cost the least
    error per multiply-add."""
    eight = Storage("int8", "int8")
    able = [
        layer
        for layer, storage in found.storage_per_layer(plan)
        if storage.weights == "int8" and eight in layer.error and layer.macs
    ]
    able.sort(key=lambda layer: (layer.error[eight] - layer.error.get(Storage("int8"), 0.0)) / layer.macs)

    def with_first(count: int) -> Plan:
        layers = {component: dict(plan.layers.get(component, {})) for component in COMPONENTS}
        for layer in able[:count]:
            layers[layer.component][layer.name] = eight
        return Plan(
            plan.name, plan.default, {name: storages for name, storages in layers.items() if storages}, plan.notes
        )

    low, high = 0, len(able) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if found.lpips(with_first(middle)) <= limit else (low, middle)
    return with_first(low)


def _at(found: Sensitivity, kinds: Sequence[Storage], price: float, name: str) -> Plan:
    """The plan that minimises error + price·bytes; without a price the widest storage, at an infinite one the smallest."""
    storages: dict[str, dict[str, Storage]] = {component: {} for component in COMPONENTS}
    for layer in found.layers:

        def cost(storage: Storage, layer: Layer = layer) -> tuple[float, float]:
            size, error = layer.bytes(storage), layer.error.get(storage, 0.0)
            if price == float("inf"):
                return size, error
            return (error + price * size, size) if price else (-size, error)

        storages[layer.component][layer.name] = min(kinds, key=cost)
    every = [storage for named in storages.values() for storage in named.values()]
    usual = max(kinds, key=every.count)
    named = {
        part: {name: storage for name, storage in found.items() if storage != usual} for part, found in storages.items()
    }
    return Plan(name, usual, {part: layers for part, layers in named.items() if layers})


def _prices(found: Sensitivity, kinds: Sequence[Storage]) -> tuple[float, float]:
    """The range of prices per byte that contains every choice."""
    ratios = [
        abs(layer.error.get(one, 0.0) - layer.error.get(other, 0.0)) / abs(layer.bytes(one) - layer.bytes(other))
        for layer in found.layers
        for one in kinds
        for other in kinds
        if layer.bytes(one) != layer.bytes(other)
    ]
    real = [ratio for ratio in ratios if ratio > 0]
    return (min(real) / 2, max(real) * 2) if real else (1e-30, 1.0)
