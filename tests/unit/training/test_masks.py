"""Which masks a masked backbone is trained with: the law of the mask ratio, and several masks of each image."""

from collections import Counter
from itertools import product

import pytest
import tiny
import torch

from mar.data.tokens import TokenSet
from mar.models.order import mask_ratio, num_masked
from mar.runtime.noise import Noise, seed_of
from mar.study.stage_keys import train_key
from mar.training.trainer import Trainer, train


def study(**recipe):
    return tiny.study(recipes={"short": {**tiny.STUDY["recipes"]["short"], **recipe}}, variants=ONE, tradeoff=[])


ONE = {"mar-diff": tiny.STUDY["variants"]["mar-diff"]}


def trainer(root, **recipe):
    tokens = TokenSet.open(root / "tokens" / "kl" / "train")
    return Trainer(study(**recipe), "mar-diff", 0, tokens, root / "runs" / "mar-diff" / "seed0")


def shares(length, **law):
    """How often each number of tokens is masked, by evenly spaced quantiles."""
    n = 20_000
    counts = Counter(num_masked(mask_ratio((i + 0.5) / n, **law), length) for i in range(n))
    return {masked: count / n for masked, count in sorted(counts.items())}


def test_uniform_masks_every_number_of_tokens_equally_often():
    uniform = shares(16, low=0.0, law="uniform")
    assert uniform == {masked: pytest.approx(1 / 16, abs=1e-4) for masked in range(1, 17)}
    assert min(shares(16, low=0.5, law="uniform")) == 9
    normal = shares(16, low=0.0)
    assert sum(share for masked, share in normal.items() if masked <= 8) == pytest.approx(0.045, abs=0.003)


def test_defaults_train_as_before(tmp_path):
    """Said aloud they change no key, and the loss is that of one published mask whose numbers bear the old names."""
    said = study(mask_ratio="normal", masks_per_image=1)
    assert train_key(said, "mar-diff", 0) == train_key(study(), "mar-diff", 0)
    assert "mask" not in train_key(study(), "mar-diff", 0).replace("masked", "")
    run = trainer(tiny.make_root(tmp_path))
    run.model.train()
    got = run.micro_batch_loss(8, 4)
    noise = Noise("train", 0, 0, 8)
    torch.manual_seed(seed_of("dropout", 0, 0, 8))
    index = run.data_order(8, 4)
    x = run.load(index, noise)
    known = 16 - num_masked(mask_ratio(float(noise.uniform(1)), 0.7), 16)
    order = noise.permutations(4, 16)
    labels = torch.where(noise.uniform(4) < 0.1, -1, run.tokens.labels[index])
    assert torch.equal(got, run.model.loss(x, labels, order, known, noise))


def test_several_masks_of_an_image(tmp_path):
    """A step's loss is the mean over micro-batches and their masks, each with numbers of its own."""
    root = tiny.make_root(tmp_path)
    run = trainer(root, masks_per_image=3, mask_ratio="uniform", mask_ratio_min=0.0)
    run.model.train()
    losses = [run.micro_batch_loss(first, 4, mask).item() for first, mask in product((0, 4), range(3))]
    assert len(set(losses)) == 6
    assert run.step(0.0)[0] == pytest.approx(sum(losses) / 6, rel=1e-6)
    train(study(masks_per_image=2), root, "mar-diff", 0)
    assert (root / "runs/mar-diff/seed0/run.json").read_text().count('"images": 96') == 1


def test_masks_of_a_causal_backbone_are_refused():
    with pytest.raises(ValueError, match="masks_per_image 2 with a causal backbone: belongs to masked; accepted: 1"):
        tiny.study(recipes={"short": {**tiny.STUDY["recipes"]["short"], "masks_per_image": 2}})
