"""The autoencoder's objective: weights to start from, latents in principal axes, and each option of the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.models import autoencoder as ae  # noqa: E402
from genin.distill.models.latent_axes import RMS, principal_axes, turn_latents  # noqa: E402
from genin.distill.models.taesd import load_initial_weights  # noqa: E402
from genin.distill.recipe import AutoencoderRecipe  # noqa: E402
from genin.distill.teacher import autoencoder as stage  # noqa: E402
from genin.distill.teacher.autoencoder import random_crops  # noqa: E402
from genin.distill.teacher.run import origin_of_weights  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402

TINY = AutoencoderRecipe(
    image_size=32, channels=8, latent_channels=8, encoder_blocks=(0, 1, 1), decoder_blocks=(1, 1, 0), prior_weight=0.0
)


def update(batch: int = 4, seed: int = 0) -> Update:
    generator = torch.Generator().manual_seed(seed)
    return Update(0, 0, batch, 0, batch, generator, torch.device("cpu"))


@pytest.fixture
def vae() -> Any:
    torch.manual_seed(0)
    return ae.build_autoencoder(TINY)


@pytest.fixture
def images() -> Any:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


class TestPrincipalAxes:
    def test_axes_are_orthogonal_and_in_order_of_variance(self) -> None:
        torch.manual_seed(0)
        mixing = torch.randn(6, 6)
        latents = torch.einsum("dc,nchw->ndhw", mixing, torch.randn(16, 6, 4, 4)) + 3.0
        mean, axes, variances = principal_axes([latents[:8], latents[8:]])
        assert torch.allclose(axes @ axes.T, torch.eye(6, dtype=torch.float64), atol=1e-9)
        turned = torch.einsum("kc,nchw->nkhw", axes, latents.double() - mean[:, None, None])
        covariance = torch.cov(turned.transpose(0, 1).flatten(1))
        assert torch.allclose(covariance, torch.diag(variances), atol=1e-8 * float(variances[0]))
        assert (variances.diff() <= 0).all()

    def test_turned_latents_draw_the_same_pictures(self, vae: Any) -> None:
        images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
        inner = (slice(None), slice(None), slice(36, -36), slice(36, -36))  # what no padding of latents reaches
        with torch.no_grad():
            latents = ae.encode(vae, images)
            before = _decode_without_bend(vae, latents)
            turn_latents(vae, [latents])
            turned = ae.encode(vae, images)
            after = _decode_without_bend(vae, turned)
        assert float(turned.square().mean().sqrt()) == pytest.approx(RMS, rel=1e-2)
        assert turned.mean(dim=(0, 2, 3)).abs().max() < 1e-5
        assert (turned.var(dim=(0, 2, 3)).diff() <= 1e-9).all()
        assert torch.allclose(after[inner], before[inner], atol=1e-5)

    def test_a_second_turn_changes_nothing(self, vae: Any, images: Any) -> None:
        with torch.no_grad():
            turn_latents(vae, [ae.encode(vae, images)])
            once = ae.encode(vae, images)
            turn_latents(vae, [once])
            assert torch.allclose(ae.encode(vae, images), once, atol=1e-4)


def _decode_without_bend(vae: Any, latents: Any) -> Any:
    return vae.decoder.layers(latents).mul(2).sub(1)


class TestInitialWeights:
    def test_a_pair_of_taesd_files_without_its_branches(self, vae: Any, tmp_path: Path) -> None:
        encoder = {key.removeprefix("layers."): value.half() for key, value in vae.encoder.state_dict().items()}
        decoder = {}
        for key, value in vae.decoder.state_dict().items():
            _, number, rest = key.split(".", 2)
            decoder[f"{int(number) + 1}.{rest}"] = value.half()
        branch = {"4.pool.0.weight": torch.zeros(2, 2, 1, 1)}
        torch.save(encoder | branch, tmp_path / "tae_encoder.pth")
        torch.save(decoder | branch, tmp_path / "tae_decoder.pth")
        fresh = ae.build_autoencoder(TINY)
        load_initial_weights(fresh, tmp_path)
        for name, value in vae.state_dict().items():
            assert torch.equal(fresh.state_dict()[name], value.half().float()), name

    def test_a_folder_of_diffusers(self, vae: Any, tmp_path: Path) -> None:
        vae.save_pretrained(tmp_path)
        fresh = ae.build_autoencoder(TINY)
        load_initial_weights(fresh, tmp_path)
        assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in vae.state_dict().items())

    def test_other_shapes_are_named(self, vae: Any, tmp_path: Path) -> None:
        vae.save_pretrained(tmp_path)
        wider = ae.build_autoencoder(replace(TINY, latent_channels=4))
        with pytest.raises(InputError, match=r"decoder\.layers\.0\.weight is 8×8×3×3 there and 8×4×3×3 by the recipe"):
            load_initial_weights(wider, tmp_path)

    @pytest.mark.parametrize("files", [(), ("x_encoder.pth",), ("a_encoder.pth", "a_decoder.pth", "b_encoder.pth")])
    def test_not_one_pair(self, vae: Any, tmp_path: Path, files: tuple[str, ...]) -> None:
        for name in files:
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match="NAME_encoder"):
            load_initial_weights(vae, tmp_path)

    def test_a_file_cut_short(self, vae: Any, tmp_path: Path) -> None:
        for name in ("x_encoder.pth", "x_decoder.pth"):
            (tmp_path / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(InputError, match="x_encoder"):
            load_initial_weights(vae, tmp_path)

    def test_whose_they_are_becomes_one_of_the_teachers_origins(self, tmp_path: Path) -> None:
        folder = tmp_path / "tae"
        folder.mkdir()
        origin = {"source": "initial weights of the autoencoder: tae", "rights": "", "licence": "MIT", "pictures": 0}
        assert origin_of_weights(folder, "MIT") == origin
        text = "MIT License\n\nCopyright (c) 2023 Somebody\n\nThe above copyright notice shall be included"
        (folder / "LICENSE").write_text(text)
        assert origin_of_weights(folder, "MIT") == origin | {"rights": "Copyright (c) 2023 Somebody"}


class TestLoss:
    def test_each_weight_adds_its_term(self, vae: Any, images: Any) -> None:
        plain = stage.autoencoder_loss(vae, images, replace(TINY, edge_weight=0.0), update())
        assert torch.equal(plain["loss"], plain["pixel"]) and "scale" not in plain
        scaled = stage.autoencoder_loss(vae, images, replace(TINY, edge_weight=0.0, scale_weight=0.5), update())
        assert float(scaled["loss"]) == pytest.approx(float(scaled["pixel"] + 0.5 * scaled["scale"]), rel=1e-6)

    def test_noise_is_a_share_of_the_latents_spread(self, vae: Any, images: Any) -> None:
        latents = ae.encode(vae, images).float()
        per_channel = latents.detach().var(dim=(0, 2, 3), correction=0)
        assert float(stage.spread(latents)) == pytest.approx(float(per_channel.mean().sqrt()))
        levels = stage.noise_levels(replace(TINY, latent_noise=0.05, latent_noise_max=0.3), update(64)).flatten()
        assert (levels[1::2] == 0.05).all() and levels[::2].max() <= 0.3 and levels[::2].std() > 0.05

    def test_channel_dropout_keeps_the_first(self) -> None:
        kept = stage.kept_channels(8, 0.5, update(400))[..., 0, 0]
        counts = kept.sum(dim=1)
        assert set(counts.tolist()) == {2, 4, 6, 8} and 150 < (counts < 8).sum() < 250
        assert (kept.diff(dim=1) <= 0).all()  # never a later one without an earlier one

    def test_the_scale_term_is_nought_where_shrinking_commutes(self) -> None:
        class Enlarging:
            """Decodes by repeating each latent: shrinking before or after is the same."""

            def decode(self, latents: Any, return_dict: bool) -> tuple[Any]:
                return (latents.repeat_interleave(4, 2).repeat_interleave(4, 3),)

        latents = torch.randn(2, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
        images = latents.repeat_interleave(4, 2).repeat_interleave(4, 3)
        for seed in range(4):
            assert float(stage.scale_loss(Enlarging(), latents, images, update(2, seed))) == pytest.approx(0, abs=1e-6)
            assert float(stage.scale_loss(Enlarging(), latents, images.flip(3), update(2, seed))) > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder_blocks": (1, 1)}, "encoder_blocks has 2 levels, decoder_blocks 3"),
        ({"crop": 64}, "crop is 64 px, more than the pictures' 32"),
        ({"crop": 18}, "crop is 18 px, which is not a multiple of 4"),
        ({"crop": 24, "scale_weight": 0.1}, "not a multiple of 16"),
        ({"latent_channels": 3, "channel_dropout": 0.5}, "quarters of 3 latent channels"),
        ({"principal_axes": True, "prior_weight": 0.05}, "prior_weight"),
    ],
)
def test_settings_that_contradict_each_other(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ae.build_autoencoder(replace(TINY, **change))


def test_crops_are_parts_of_their_pictures() -> None:
    rows, columns = np.mgrid[:16, :16]
    pictures = np.stack([np.stack([rows, columns, np.full_like(rows, i)], axis=2) for i in range(5)]).astype(np.uint8)
    crops = random_crops(pictures, 8, update(32))
    assert crops.shape == (32, 8, 8, 3)
    for crop in crops:
        top, left, index = (int(v) for v in crop[0, 0])
        assert np.array_equal(crop, pictures[index, top : top + 8, left : left + 8])
    assert len({tuple(crop[0, 0]) for crop in crops}) > 16
    assert random_crops(pictures, 0, update(3)).shape == (3, 16, 16, 3)
