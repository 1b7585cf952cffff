"""CLIP score with a tiny CLIP of random weights: transformers' own cosines, its interval, and what is said without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genin.benchmarks import BenchOptions, bench
from genin.benchmarks.quality.clip_score import load_clip, mean_with_interval
from genin.benchmarks.results.table import results_table
from genin.runtimes.errors import InputError

STUDENT = Path(__file__).parents[2] / "runtimes" / "weights" / "student"
PROMPTS = ["a happy ninja", "a ninja at night", "a calm ninja in the forest"]


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CLIP, 32 px, with the tokenizer of the shipped student."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(STUDENT / "tokenizer")
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = layers | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 48,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = layers | {"image_size": 32, "patch_size": 16}
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    size: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    tokenizer.model_max_length = 48
    CLIPProcessor(CLIPImageProcessor(**size), tokenizer).save_pretrained(folder)
    return folder


def test_scores_are_the_models_own_cosines(tiny_clip: Path) -> None:
    import torch

    clip = load_clip(tiny_clip)
    pictures = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    found = clip.scores(pictures, PROMPTS)
    for picture, prompt, score in zip(pictures, PROMPTS, found, strict=True):  # one at a time, by the other road
        inputs = clip.processor(text=[prompt], images=[picture], return_tensors="pt")
        with torch.no_grad():
            logits = clip.model(**inputs).logits_per_image / clip.model.logit_scale.exp()
        assert score == pytest.approx(100 * max(float(logits), 0.0), abs=1e-3)
    assert clip.scores(pictures[:0], []).shape == (0,)
    assert load_clip(tiny_clip).record() == clip.record() and len(clip.sha256) == 64


def test_the_interval_is_of_prompts_not_of_pictures() -> None:
    assert mean_with_interval([20.0, 30.0], ["a", "a"]) == (25.0, None)
    mean, interval = mean_with_interval([20.0] * 99 + [30.0], ["a"] * 99 + ["b"])
    assert mean == 25.0 and interval is not None and interval[0] < 0 < 50 < interval[1]  # two prompts say little
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        scores = np.repeat(random.normal(25, 3, 6), 4) + random.normal(0, 1, 24)
        _, bounds = mean_with_interval(scores.tolist(), np.repeat(list("abcdef"), 4).tolist())
        covered += bounds is not None and bounds[0] <= 25 <= bounds[1]
    assert 366 <= covered <= 394


@pytest.mark.processes
def test_a_benchmark_scores_its_timed_pictures(tiny_clip: Path) -> None:
    options = BenchOptions(runs=3, processes=1, warmup=0, threads=1, runtimes="onnxruntime", prompts=PROMPTS)
    results = bench(STUDENT, replace(options, clip=tiny_clip))
    [row] = results["results"]
    low, high = row["clip_score_interval"]
    assert low <= row["clip_score"] <= high and len(results["protocol"]["clip"]["sha256"]) == 64
    assert "CLIP score" in results_table(results)


def test_without_weights_it_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # read when it is imported: the variable is too late
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    from genin.benchmarks.speed.picture_quality import _load_clip

    notes: dict[str, str] = {}
    assert _load_clip(None, notes) is None and not notes
    assert _load_clip("nobody/no-such-clip", notes) is None
    assert notes["clip_score"].startswith("CLIP score is not available: nobody/no-such-clip cannot be had")
    for wrong in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"no CLIP model \(config.json\) here"):
            load_clip(wrong)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="no CLIP model that can be read"):
        load_clip(tmp_path)
