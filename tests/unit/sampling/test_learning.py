"""The stage `learning`: its record, equal draws at all points, what makes it measure again, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from PIL import Image
from tiny_models import PixelsOfTokens, SixNumbers

from mar.data.tokens import TokenSet
from mar.features.networks import extractors
from mar.runtime.files import read, sha256
from mar.runtime.noise import Noise
from mar.sampling import learning, sampler
from mar.study import layout
from mar.study.records import LearningRecord, RunRecord
from mar.training.trainer import train

AT = {"short": tiny.STUDY["recipes"]["short"] | {"evaluate_at": [0.5, 0.75]}}


def study(samples=24, **over):
    section = {"learning": {"samples": samples}} if samples else {}
    return tiny.study(recipes=AT, **section, **over)


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = tiny.make_root(tmp_path)
    train(study(), root, "mar-diff", 0)
    rows = np.random.default_rng(0).normal(0.5, 0.1, (40, 6))
    extractor = SimpleNamespace(weights=SixNumbers.weights)
    real = SimpleNamespace(sha256="5" * 64, folder="heldout", manifest=SimpleNamespace(extractor=extractor))
    real.array = lambda key: rows
    monkeypatch.setattr(learning, "validation_features", lambda study, root: real)
    monkeypatch.setattr(learning, "heldout_tokens", lambda root, name: TokenSet.open(layout.tokens(root, name)))
    monkeypatch.setattr(extractors, "load", lambda *args: SixNumbers())
    monkeypatch.setattr(sampler.autoencoder, "load", lambda root, name, study: PixelsOfTokens())
    return root


def result(root):
    return read(layout.learning(root, "mar-diff", 0), LearningRecord)


def test_a_record_of_every_point(root, capsys):
    learning.learning(study(), root, "mar-diff", 0, 123.0)
    record, run = result(root), read(layout.run_record(root, "mar-diff", 0), RunRecord)
    assert [point.images for point in record.points] == [48, 72, 96]
    assert [point.checkpoint for point in record.points] == [*run.averages.values(), run.checkpoint]
    assert len({point.fid.value for point in record.points}) == 3
    assert record.points[0].heldout == record.points[0].train, "the fixture takes the same images for both"
    assert (record.setting, record.samples, record.operations) == ("diff", 24, 123.0)
    first, last = record.points[1].fid.value, record.points[2].fid.value
    assert record.fall.since == 72 and record.fall.effect == pytest.approx(np.log(last / first))
    assert 0 < record.fall.error < 1
    capsys.readouterr()
    learning.learning(study(), root, "mar-diff", 0, 123.0)
    assert "complete" in capsys.readouterr().out
    learning.learning(study(samples=None), root, "mar-diff", 0, 123.0)
    assert result(root).points[0].fid is None and result(root).fall is None


def law_study(**over):
    """Three sizes of VAR, to which power laws are fitted."""
    backbones = {f"w{w}": tiny.STUDY["backbones"]["scales"] | {"width": w} for w in (8, 16, 24)}
    variants = {name: tiny.STUDY["variants"]["var"] | {"backbone": name, "seeds": [0, 1]} for name in backbones}
    laws = {"variants": list(variants)}
    more = {"backbones": tiny.STUDY["backbones"] | backbones, "variants": variants, "tradeoff": [], "laws": laws}
    return tiny.study(recipes=AT, **more | over)


def test_pictures_of_models_to_which_laws_are_fitted(root, monkeypatch):
    of, picture = law_study(), layout.pictures(root, "w8", 0)
    for seed in (0, 1):
        train(of, root, "w8", seed)
        learning.learning(of, root, "w8", seed, 1.0)
    record = read(layout.learning(root, "w8", 0), LearningRecord)
    rows = np.asarray(Image.open(picture)).reshape(3, 8, 10 * 8, 3)
    assert record.pictures == sha256(picture) and not np.array_equal(rows[0], rows[2])
    assert not layout.pictures(root, "w8", 1).exists()
    assert read(layout.learning(root, "w8", 1), LearningRecord).pictures is None

    picture.unlink()  # it is made again, from equal weights by equal numbers
    learning.learning(of, root, "w8", 0, 1.0)
    assert sha256(picture) == record.pictures
    monkeypatch.setattr(
        learning, "Sampler", lambda study, root, variant, seed, images: sampler.Sampler(of, root, variant, seed)
    )
    picture.unlink()
    learning.learning(of, root, "w8", 0, 1.0)
    last = np.asarray(Image.open(picture)).reshape(3, 8, 10 * 8, 3)
    assert all(np.array_equal(row, rows[2]) for row in last)


def test_equal_weights_draw_equal_images(root, monkeypatch):
    """Only the weights make the difference between points."""
    sets = []
    monkeypatch.setattr(
        learning, "Sampler", lambda study, root, variant, seed, images: sampler.Sampler(study, root, variant, seed)
    )
    whole = sampler.Sampler.looked_at
    monkeypatch.setattr(sampler.Sampler, "looked_at", lambda *args: sets.append(whole(*args)) or sets[-1])
    learning.learning(study(), root, "mar-diff", 0, 1.0)
    assert len(sets) == 3 and all(np.array_equal(sets[0]["features"], found["features"]) for found in sets)
    assert result(root).fall.effect == 0 and result(root).fall.error == 0


def test_random_numbers_name_neither_point_nor_training(root, monkeypatch):
    names = []

    def named(*name, **options):
        names.append(name)
        return Noise(*name, **options)

    monkeypatch.setattr(sampler, "Noise", named)
    learning.learning(study(), root, "mar-diff", 0, 1.0)
    assert names == 3 * [("learning", 0, "samples", number) for number in range(4)]


def test_pairing_narrows_the_change():
    rng = np.random.default_rng(0)
    moves = rng.normal(size=1000)
    _, paired = learning.change((10.0, moves), (9.0, moves * 0.9))
    _, apart = learning.change((10.0, moves), (9.0, rng.permutation(moves) * 0.9))
    assert paired == pytest.approx(0, abs=1e-12) and apart == pytest.approx(np.sqrt(2) / 10 / np.sqrt(1000), rel=0.1)


def test_no_last_quarter_without_a_point_near_it():
    found = (1.0, np.zeros(3))
    assert learning.fall({25: found, 100: found}, 100) is None and learning.fall({75: found}, 100) is None
    assert learning.fall({70: found, 80: found, 76: found, 100: found}, 100).since == 76


def test_features_by_other_weights_are_refused_and_no_number_of_a_point(root, monkeypatch):
    other = SixNumbers()
    other.weights = "f" * 64
    monkeypatch.setattr(extractors, "load", lambda *args: other)
    with pytest.raises(ValueError, match="heldout: features by other weights than classifier has; run `mar features`"):
        learning.learning(study(), root, "mar-diff", 0, 1.0)
    assert not layout.learning(root, "mar-diff", 0).exists()


def test_a_variant_that_keeps_nothing_is_refused(root):
    with pytest.raises(ValueError, match="--variant mar-diff: keeps no averages; accepted: a trained one whose recipe"):
        learning.learning(tiny.study(), root, "mar-diff", 0, 1.0)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"samples": 25}, "learning.samples 25 is not a multiple of metrics.chunk 6"),
        ({"samples": 24, "setting": {"ar-ce": "diff"}}, "learning.setting: sampling of variant ar-ce: found 'diff'"),
    ],
)
def test_a_section_that_does_not_fit_is_refused(section, said):
    with pytest.raises(ValueError, match=said):
        tiny.study(recipes=AT, learning=section)
    with pytest.raises(ValueError, match="learning: no recipe of a variant has evaluate_at"):
        tiny.study(learning={"samples": 24})


def test_losses_can_be_of_some_rows(root):
    """As of the validation part, where FID compares with others of the held-out images."""
    tokens = TokenSet.open(layout.tokens(root, study().tokenizer_of("mar-diff", 0)))
    drawn = sampler.Sampler(study(), root, "mar-diff", 0)
    rows = np.arange(len(tokens))
    assert learning.losses(drawn, tokens, rows) == learning.losses(drawn, tokens)
    few = learning.losses(drawn, tokens, rows[: len(rows) // 2])
    assert {metric.n for metric in few.values()} == {len(rows) // 2} and few != learning.losses(drawn, tokens)
