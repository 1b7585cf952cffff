"""A narrower decoder that starts as another: exact where nothing is taken away, near where little is."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from genin.distill.models.narrow_decoder import levels_of, start_as  # noqa: E402


def decoder(width: int, blocks: tuple[int, ...], seed: int) -> Any:
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    return AutoencoderTiny(
        encoder_block_out_channels=(4,) * len(blocks), num_encoder_blocks=(1,) * len(blocks), latent_channels=5,
        decoder_block_out_channels=(width,) * len(blocks), num_decoder_blocks=blocks, act_fn="relu",
    ).decoder.requires_grad_(False)  # fmt: skip


LATENTS = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(9))


def test_the_same_shape_is_the_same_decoder() -> None:
    one, other = decoder(8, (2, 1, 1), 0), decoder(8, (2, 1, 1), 1)
    assert not torch.allclose(one(LATENTS), other(LATENTS))
    start_as(one, other)
    assert torch.equal(one(LATENTS), other(LATENTS))


def test_further_blocks_start_as_the_identity() -> None:
    one, other = decoder(8, (4, 2, 1), 0), decoder(8, (2, 1, 1), 1)
    start_as(one, other)
    assert torch.allclose(one(LATENTS), other(LATENTS), atol=1e-6)


def test_channels_that_do_nothing_go_first() -> None:
    wide = decoder(12, (2, 1), 1)
    dead = torch.tensor([0, 3, 7, 11])
    for level in levels_of(wide):
        level.entry.weight[dead] = 0
        for conv in (
            level.entry,
            *(c for block in level.blocks for c in (block.conv[0], block.conv[2], block.conv[4])),
        ):
            conv.weight[dead] = 0
            if conv.bias is not None:
                conv.bias[dead] = 0
    narrow = decoder(8, (2, 1), 0)
    start_as(narrow, wide)
    assert torch.allclose(narrow(LATENTS), wide(LATENTS), atol=1e-6)


@pytest.mark.parametrize("width", [10, 11])
def test_a_narrowed_decoder_is_nearer_than_a_fresh_one(width: int) -> None:
    wide, narrow, fresh = decoder(12, (2, 1), 1), decoder(width, (2, 1), 0), decoder(width, (2, 1), 0)
    start_as(narrow, wide)
    near, far = ((one(LATENTS) - wide(LATENTS)).square().mean() for one in (narrow, fresh))
    assert float(near) < float(far)
