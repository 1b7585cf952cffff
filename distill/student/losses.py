"""Loss functions of distillation: pure functions of tensors, one equation each.

Shapes: latents (N, C, H, W); logits are lists of (N, 1, h, w), one per discriminator head. All are computed in float32.

All but `image_to_text` and `hinge_discriminator` are means over rows that do not depend on each other, so that parts of a batch
average to the whole; those two take what they need from the whole batch (`first`, `mismatched_weight`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pseudo_huber(x: Tensor, y: Tensor, c: float, weight: Tensor | float = 1.0) -> Tensor:
    """√(‖x − y‖² + c²) − c per element, averaged (Song & Dhariwal 2023, arXiv:2310.14189, eq. 8): L1 far, L2 near.
    `weight` is one for all or one per row, (N, 1, 1, 1)."""
    difference = (x.float() - y.float()).square()
    return (weight * (difference + c * c).sqrt().sub(c)).mean()


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over blocks and rows of ‖f_s − f_T‖²/‖f_T‖²: normalised, since a raw sum is dominated by the widest block; row by row,
    so that it does not depend on which rows share a process or a part of the batch."""
    terms = [
        (s.float() - t.float()).square().flatten(1).sum(1) / t.float().square().flatten(1).sum(1).clamp_min(1e-12)
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(terms).mean()


def perceptual_distance(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """Mean over maps of E‖x̂ − ŷ‖², the features at each position normalised to unit length: Zhang et al. 2018, arXiv:1801.03924,
    eq. 1, with all channels weighing the same and maps averaged; on a frozen denoiser's features as in Lin & Yang 2024,
    arXiv:2401.00110."""
    terms = [
        (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(dim=1).mean()
        for a, b in zip(x, y, strict=True)
    ]
    return torch.stack(terms).mean()


def distribution_matching(picture: Tensor, real_x0: Tensor, fake_x0: Tensor) -> Tensor:
    """½·mean(x − sg(x − g))² with g = (x0_fake − x0_real)/mean|x − x0_real|, so that its gradient on x is g over the number of
    elements (Yin et al. 2024, arXiv:2311.18828, eqs. 7 and 8, without α_t, as their code has it: the weight brings all noise levels
    to one scale)."""
    with torch.no_grad():
        scale = (picture - real_x0).abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
        aim = picture - (fake_x0 - real_x0) / scale
    return 0.5 * (picture - aim).square().mean()


def kernel_distance(drawn: Tensor, true: Tensor, bandwidths: Sequence[float] = (0.5, 1.0, 2.0)) -> Tensor:
    """MMD² of two sets of features a group, drawn (G, M, D) and true (G, R, D), averaged over groups: mean k(x, x') over other
    pairs + the same of true ones − 2·mean k(x, y) (Gretton et al. 2012, jmlr.org/papers/v13/gretton12a, eq. 3, unbiased).

    k is the mean of exp(−‖x − y‖ / (h·s)) over the bandwidths h, and s a group's mean distance between true features: by it a set
    attracts where the true features are and repels itself, at the scale of what differs under one caption.
    """
    x, y = drawn.float(), true.float().detach()
    between, own, others = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    scale = (others.sum(dim=(1, 2), keepdim=True) / (y.shape[1] * (y.shape[1] - 1))).clamp_min(1e-6)

    def kernel(distances: Tensor) -> Tensor:
        return torch.stack([(-distances / (h * scale)).exp() for h in bandwidths]).mean(dim=0)

    def among_others(distances: Tensor) -> Tensor:
        count = distances.shape[1]
        same = torch.eye(count, dtype=torch.bool, device=distances.device)
        return kernel(distances).masked_fill(same, 0.0).sum(dim=(1, 2)) / (count * (count - 1))

    return (among_others(own) + among_others(others) - 2 * kernel(between).mean(dim=(1, 2))).mean()


def hinge_discriminator(
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    mismatched: Sequence[Tensor] | None = None,
    share: float = 0.0,
    mismatched_weight: float = 1.0,
) -> Tensor:
    """mean max(0, 1 − D(real)) + mean max(0, 1 + D(fake)), averaged over heads (Lim & Ye 2017, arXiv:1705.02894).

    With `mismatched`, true pictures under wrong captions, those are `share` of the fakes. The two sides must have equal weight:
    otherwise the constant −1 is a minimum, where the discriminator ends up and stays (docs/log.md). `mismatched_weight` is a factor
    on their mean, for a part of a batch with more or fewer of them than other parts.
    """
    terms = [
        F.relu(1 - r.float()).mean() + (1 - share) * F.relu(1 + f.float()).mean()
        for r, f in zip(real, fake, strict=True)
    ]
    if mismatched is not None:
        terms += [mismatched_weight * share * F.relu(1 + m.float()).mean() for m in mismatched]
    return torch.stack(terms).sum() / len(real)


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    """−mean D(fake), averaged over heads (Sauer et al. 2023, arXiv:2311.17042, eq. 2)."""
    return torch.stack([-f.float().mean() for f in fake]).mean()


def image_to_text(images: Tensor, texts: Tensor, scale: Tensor | float, first: int = 0) -> Tensor:
    """Cross-entropy of each image's own text among all texts, embeddings (N, D) and (M, D) at unit length: one half of CLIP's
    loss (Radford et al. 2021, arXiv:2103.00020, figure 3). Image i belongs to text `first` + i: images may be a part of a batch."""
    logits = scale * images.float() @ texts.float().T
    return F.cross_entropy(logits, torch.arange(first, first + len(images), device=logits.device))


def r1_penalty(logits: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """E‖∇_f D(f)‖² on real features (Mescheder et al. 2018, arXiv:1801.04406, eq. 9, on the heads' inputs).

    Per sample, summed over a head's features and averaged over batch and heads; `features` must require gradients.
    """
    total = torch.stack([head.float().mean(dim=(1, 2, 3)).sum() for head in logits]).sum()
    gradients = torch.autograd.grad(total, list(features), create_graph=True)
    return torch.stack([g.float().square().flatten(1).sum(1).mean() for g in gradients]).mean()


def accuracy(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Share of patches that the discriminator classifies correctly: 0.5 is blind, 1 leaves the student nothing to learn from."""
    right = [((r > 0).float().mean() + (f < 0).float().mean()) / 2 for r, f in zip(real, fake, strict=True)]
    return torch.stack(right).mean()


def falling(weight: float, final_share: float, progress: float) -> float:
    """A term's weight when the share `progress` of a phase is done: over the last third it falls in a straight line to
    `final_share` of itself."""
    left = min(1.0, 3 * (1 - progress))
    return weight * (final_share + (1 - final_share) * left)
