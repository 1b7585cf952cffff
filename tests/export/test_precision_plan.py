"""How a plan stores the layers of a decoder that int8 would round too coarsely."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from genin.export.precision_plan import COARSE_DB, Plan, Storage, rounding_db, uniform  # noqa: E402

pytestmark = pytest.mark.unit


def network() -> torch.nn.Module:
    """Two convolutions, "0" and "1"; one weight of every channel of the second is twenty times the others."""
    torch.manual_seed(0)
    convolutions = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3), torch.nn.Conv2d(64, 64, 3))
    convolutions[1].weight.data[:, 0, 0, 0] = 20 * convolutions[1].weight.data.std()
    return convolutions


def test_int8_keeps_a_decoders_coarse_layers_wider_unless_they_are_named() -> None:
    layers = network()
    assert rounding_db(layers[1].weight) < COARSE_DB < rounding_db(layers[0].weight)
    wider, int8 = Storage("fp16"), Storage("int8")
    assert uniform("int8").storage_per_layer("vae_decoder", layers) == {"0": int8, "1": wider}
    assert uniform("int8").storage_per_layer("unet", layers) == {"0": int8, "1": int8}
    named = Plan("named", int8, {"vae_decoder": {"1": int8}})
    assert named.storage_per_layer("vae_decoder", layers) == {"0": int8, "1": int8}
    assert uniform("fp16").storage_per_layer("vae_decoder", layers) == {"0": wider, "1": wider}


def test_a_weight_of_zeros_loses_nothing() -> None:
    assert rounding_db(torch.zeros(4, 4, 3, 3)) >= 0
