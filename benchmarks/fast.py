"""The study digits-fast against the published algorithm: its default, which draws equal tokens, and its fast modes."""

from __future__ import annotations

import torch

from benchmarks import baseline
from benchmarks.paired import paired
from benchmarks.tables import Pairs, Parts
from mar.models.model import build_model
from mar.models.order import draw_order
from mar.planning.costs import Tokens
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study import reading as studies

# Where a sweep chooses guidance, the largest scale of its grid stands for all of them, which take as long.
BATCH, PAIRS = 16, 2
FAST = ("mar-16-dpm10", "mar-12-dpm8", "mar-10-dpm10")


def report() -> Parts:
    """The table of the default and the fast modes."""
    study = studies.load("config/digits-fast.yaml")
    assert study.fast is not None
    variant = study.variants[study.fast.variant]
    length, dim = study.tokens(variant.tokenizer), study.tokenizers[variant.tokenizer].token_dim
    torch.manual_seed(0)
    model = build_model(study, study.fast.variant, Tokens.of(study, variant.tokenizer, classes=10)).eval()
    labels, blank = torch.arange(BATCH) % 10, torch.zeros(length, dim)
    order = draw_order(variant.order, BATCH, length, Noise("benchmark"))
    rows = []
    for name in (study.fast.default, *FAST):
        published, ours = (
            lambda draw=draw, s=study.sampling[setting].points[-1]: draw(model, labels, order, blank, s, Noise("draw"))
            for draw, setting in ((baseline.generate, study.fast.default), (generate, name))
        )
        rows.append(paired(f"digits-fast, `{name}`", published, ours, PAIRS))
    return [f"{BATCH} images, {length} tokens; baseline: {study.fast.default}.", Pairs(rows=rows)]
