"""The settings that all trainings share."""

from __future__ import annotations

from typing import Literal

from genin.distill.recipe_fields import AtLeastOne, Count, Flag, Number, Positive, Share, key, section

Precision = Literal["bf16", "no"]

CHECKPOINTING = (
    "recompute activations in the backward pass instead of keeping them: a third more work, a fraction of the memory"
)


@section
class Optimisation:
    """What all trainings share. `images` ends one; a budget in minutes may end it sooner."""

    batch_size: Positive = key(64, "captioned pictures in an update, over all processes")
    images: Count = key(200_000, "pictures seen before the training ends; 0 leaves a phase out")
    accumulate: Positive = key(
        1,
        "gradient accumulation steps per process: a large batch in little memory",
    )
    lr: Number = key(5e-4, "peak learning rate; with Muon the root mean square of a step of a matrix is 1.5 times it")
    optimizer: Literal["adamw", "adamw8bit", "muon"] = key(
        "adamw",
        '"adamw"; "adamw8bit": its moments in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), by bitsandbytes; '
        '"muon": orthogonal updates of matrices (Jordan et al. 2024), which need fewer images for the same loss; discriminators '
        "and the fake score keep AdamW",
    )
    lr_warmup_images: Count = key(
        6_400, "pictures over which the rate rises to its peak (a twentieth of the run at most)"
    )
    lr_final_fraction: Share = key(0.05, "share of the peak where its cosine decay ends")
    weight_decay: Number = key(0.0, "decoupled weight decay")
    clip_norm: Number = key(1.0, "largest norm of a gradient; longer ones are scaled down to it")
    ema_decays: AtLeastOne[Share] = key(
        (0.999,),
        "decays of the weights' moving averages; the better on held-out pictures is kept, or the first without held-out pictures",
    )
    mixed_precision: Precision = key("bf16", '"bf16" or "no"; fp16 is refused: adversarial training diverges in it')
    compile: Flag = key(
        False, "torch.compile the network: 1.25 times as fast in long runs, also on a CPU; compiling takes minutes"
    )
    seed: Count = key(0, "of everything random in the training")
    checkpoint_minutes: Number = key(5.0, "between two checkpoints")
    preview_images: Positive = key(
        32_000,
        "pictures seen between two grids of samples, each with the next row of the log (one every 50 updates)",
    )
    cache_images: Positive = key(40_000, "pictures read (or rendered) and encoded once before the training")
    keep_averages: Flag = key(
        False, "keep the first average's weights at every grid of samples, for a curve of quality over time"
    )
