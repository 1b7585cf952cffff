"""CLIP score: how well pictures fit their prompts (Hessel et al. 2021, arXiv:2104.08718), 100 · max(cos(picture, prompt), 0).

The weights are the caller's: a folder of transformers' CLIPModel, or a name on the hub. Scores of two CLIP models cannot be
compared, so a result records which one made them. Pictures are enlarged as the model's own processor does it. Pictures of one
prompt resemble each other: the interval is that of the mean over prompts, and there is none for a single one.

Not here: which pictures (`genin.benchmarks.speed.picture_quality`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.quality.weights import MetricUnavailableError
from genin.benchmarks.results.statistics import CONFIDENCE, t_quantile
from genin.hub.repository import may_be_on_the_hub
from genin.runtimes.errors import InputError

Pictures = NDArray[np.uint8]

CALLED: Final = "name a folder of CLIP's weights and processor, or a model on the hub"
BATCH: Final = 32


@dataclass(frozen=True)
class ClipScorer:
    """A loaded CLIP; `name` is what the caller wrote, `sha256` of its tensors."""

    name: str
    sha256: str
    model: Any
    processor: Any

    def scores(self, pictures: Pictures, prompts: Sequence[str]) -> NDArray[np.float64]:
        """N×H×W×3 uint8 and N prompts => N scores from 0 to 100."""
        import torch

        found: list[NDArray[np.float64]] = []
        for start in range(0, len(pictures), BATCH):
            texts, images = list(prompts[start : start + BATCH]), list(pictures[start : start + BATCH])
            inputs = self.processor(text=texts, images=images, return_tensors="pt", padding=True, truncation=True)
            with torch.inference_mode():
                out = self.model(**inputs)
            cosines = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
            found.append(100 * cosines.clamp(min=0).double().numpy())
        return np.concatenate(found) if found else np.empty(0)

    def record(self) -> dict[str, str]:
        """What a result file says of the weights."""
        return {"name": self.name, "sha256": self.sha256}


def load_clip(name: str | Path) -> ClipScorer:
    """CLIP from a folder, or by its name on the hub.

    Errors: InputError for a folder without one, MetricUnavailableError for a model that cannot be had, ModuleNotFoundError.
    """
    import transformers

    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file() and (folder.exists() or not may_be_on_the_hub(str(name))):
        raise InputError("no CLIP model (config.json) here", where=folder, remedy=CALLED)
    source = str(folder) if folder.exists() else str(name)
    try:
        model = transformers.CLIPModel.from_pretrained(source)
        processor = transformers.CLIPProcessor.from_pretrained(source)
    except (
        Exception
    ) as error:  # transformers and the hub raise OSError, ValueError and more for what is missing or damaged
        reason = " ".join(str(error).split())[:200]
        if folder.exists():
            raise InputError(f"no CLIP model that can be read ({reason})", where=folder, remedy=CALLED) from error
        raise MetricUnavailableError(f"CLIP score is not available: {name} cannot be had ({reason})") from error
    return ClipScorer(str(name), _tensors_sha256(model), model.eval(), processor)


def mean_with_interval(scores: Sequence[float], prompts: Sequence[str]) -> tuple[float, list[float] | None]:
    """The mean over prompts, and its 95 % interval; None for a single prompt."""
    by_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for score, prompt in zip(scores, prompts, strict=True):
        by_prompt[prompt].append(float(score))
    means = np.array([np.mean(one) for one in by_prompt.values()])
    mean = float(means.mean())
    if len(means) < 2:
        return mean, None
    reach = t_quantile((1 + CONFIDENCE) / 2, len(means) - 1) * float(means.std(ddof=1)) / float(np.sqrt(len(means)))
    return mean, [mean - reach, mean + reach]


def _tensors_sha256(model: Any) -> str:
    """Over names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
