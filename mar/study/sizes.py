"""How large the state of a training is, by its width and depth, and how long before its end a job has to save it."""

from __future__ import annotations

from mar.study.study import Study

STATE = 16  # bytes of a parameter in a checkpoint: weight, average and AdamW's two moments in float32
DEFAULT = 90  # seconds before its end in which a job is warned, unless it needs longer (submitit's default)
STEP = 60.0  # seconds of the step under way when a warning comes
DISK = 300e6  # bytes a second of a slow shared file system


def parameters(study: Study, variant: str) -> int:
    """Parameters of a variant's blocks and denoiser, most of the model; the exact number takes torch (`mar plan`)."""
    backbone, head = study.backbones[study.variants[variant].backbone], study.heads[study.variants[variant].head]
    matrices = 4 + 2 * backbone.mlp_ratio  # of width x width: attention, and the MLP's two
    if backbone.modulated:
        matrices += 6
    return round(backbone.blocks * matrices * backbone.width**2) + head.denoiser


def warning(study: Study, variant: str) -> int:
    """Seconds that a training needs between a warning and the end of its job.

    It ends its step, waits for a checkpoint that it may be writing, and writes another.
    """
    return round(STEP + 2 * STATE * parameters(study, variant) / DISK)
