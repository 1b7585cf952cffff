"""Muon: which weights it takes, what a step is, and that a resumed run goes on with the same bits."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

from genin.distill.loop.averages import make_optimizer  # noqa: E402
from genin.distill.loop.muon import UPDATE_RMS, Muon, orthogonalised  # noqa: E402
from genin.distill.loop.networks import NetworkOptions  # noqa: E402
from genin.distill.loop.training import Training  # noqa: E402
from genin.distill.recipe import Optimisation  # noqa: E402

pytestmark = pytest.mark.unit


class Network(nn.Module):
    """One of every kind of weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(40, 24)
        self.convolution = nn.Conv2d(24, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.norm = nn.GroupNorm(4, 32)
        self.linear = nn.Linear(32, 48)
        self.last = nn.Linear(48, 1)
        self.free = nn.Parameter(torch.zeros(24, 24))

    def forward(self, ids: Tensor) -> Tensor:
        x = (self.embedding(ids) @ (self.free + torch.eye(24))).mT.unflatten(2, (4, 4))
        x = self.norm(self.depthwise(self.convolution(x))).mean(dim=(2, 3))
        out: Tensor = self.last(self.linear(x).relu())
        return out


def backward(network: Network, seed: int = 1) -> None:
    network.zero_grad()
    ids = torch.randint(40, (8, 16), generator=torch.Generator().manual_seed(seed))
    network(ids).square().mean().backward()


def optimizer_of(network: nn.Module, lr: float = 1e-3, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    settings = Optimisation(optimizer="muon", weight_decay=weight_decay)
    return make_optimizer(settings, network, lr, (0.9, 0.99))


def test_matrices_are_orthogonal_updates_and_the_rest_is_adamw() -> None:
    network = Network()
    before = copy.deepcopy(network)
    backward(network)
    plain = copy.deepcopy(network)
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        theirs.grad = None if ours.grad is None else ours.grad.clone()
    optimizer_of(network).step()
    torch.optim.AdamW(plain.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True).step()
    unlike = {
        name
        for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True)
        if not torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    }
    assert unlike == {"convolution.weight", "linear.weight"}
    for name in unlike:
        moved = (network.get_parameter(name) - before.get_parameter(name)).flatten(1)
        length = 1e-3 * UPDATE_RMS * max(moved.shape) ** 0.5
        found = torch.linalg.svdvals(moved.detach() / length)
        # Directions that no gradient points to stay short.
        assert found.max() < 1.25 and found[:4].min() > 0.6


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (32, 32)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.6 and values.max() < 1.25
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ orthogonalised(matrix) @ vh.mT  # diagonal: the singular vectors are the gradient's
    assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-3)
    assert torch.equal(orthogonalised(torch.zeros(shape)), torch.zeros(shape))


def test_a_step_is_pytorch_s_own() -> None:
    theirs_class = getattr(torch.optim, "Muon", None)
    if theirs_class is None:
        pytest.skip("before PyTorch 2.9")
    torch.manual_seed(0)
    ours, theirs = nn.Linear(40, 24, bias=False), nn.Linear(40, 24, bias=False)
    theirs.load_state_dict(ours.state_dict())
    begun = ours.weight.detach().clone()
    one = optimizer_of(ours, lr=0.2 / UPDATE_RMS * 1e-2, weight_decay=0.1)
    other = theirs_class(
        theirs.parameters(), lr=1e-2, weight_decay=0.1 * 0.2 / UPDATE_RMS, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        grad = torch.randn(24, 40)
        ours.weight.grad, theirs.weight.grad = grad.clone(), grad.clone()
        one.step()
        other.step()
    moved, expected = ours.weight - begun, theirs.weight - begun
    assert (moved - expected).norm() < 0.02 * expected.norm()  # theirs is in bf16


def test_frozen_weights_stay() -> None:
    network = Network()
    network.convolution.requires_grad_(False)
    before = network.convolution.weight.clone()
    optimizer = optimizer_of(network)
    backward(network)
    optimizer.step()
    assert torch.equal(network.convolution.weight, before)
    gradient = network.linear.weight.grad
    assert gradient is not None and gradient.any()  # a step takes no gradient away


def test_a_state_that_is_read_again_goes_on_with_the_same_bits() -> None:
    whole, first = Network(), Network()
    one, two = optimizer_of(whole), optimizer_of(first)
    for network, optimizer in ((whole, one), (first, two)):
        for seed in range(3):
            backward(network, seed)
            optimizer.step()
    second = copy.deepcopy(first)
    again = optimizer_of(second)
    again.load_state_dict(copy.deepcopy(two.state_dict()))
    for network, optimizer in ((whole, one), (second, again)):
        for seed in range(3, 6):
            backward(network, seed)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_it_learns_in_the_training_loop(tmp_path: Path) -> None:
    training = Training(
        tmp_path, "t", Optimisation(optimizer="muon", images=640, batch_size=8, lr=1e-2, lr_warmup_images=8)
    )
    network = training.add("network", Network())
    assert isinstance(training.networks.optimizers["network"].optimizer, Muon)
    losses: list[float] = []

    def step(_: object) -> dict[str, float]:
        ids = torch.arange(128).view(8, 16) % 40
        loss = (network(ids) - torch.arange(8.0).view(8, 1)).square().mean()
        training.optimise("network", loss)
        losses.append(float(loss.detach()))
        return {"loss": losses[-1]}

    training.run(step)
    thirds = [sum(losses[i : i + 26]) / 26 for i in (0, 26, 52)]
    assert all(b < a for a, b in pairwise(thirds)) and thirds[-1] < 0.8 * thirds[0]


def test_a_network_may_keep_adamw(tmp_path: Path) -> None:
    training = Training(tmp_path, "t", Optimisation(optimizer="muon", images=8, batch_size=8))
    training.add("discriminator", Network(), NetworkOptions(betas=(0.0, 0.99), muon=False))
    assert type(training.networks.optimizers["discriminator"].optimizer) is torch.optim.AdamW
