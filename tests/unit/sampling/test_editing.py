"""Zero-shot editing: what stays stays, nothing leaks under `fair`, and the two ends are reconstruction and sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image

from mar.cli.__main__ import main
from mar.data.images import to_float, to_uint8
from mar.models import multiscale
from mar.models.order import kept_first
from mar.runtime.noise import Noise
from mar.sampling import drawing, editing, sampler
from mar.sampling import generate as generating
from mar.sampling.generate import Kept, generate
from mar.tokenizers import autoencoder
from mar.training.trainer import train

CELLS = [("mar-diff", "diff"), ("ar-ce", "ce"), ("var", "var")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small trained models; their tokenizers have the weights that they begin with."""
    root: Path = tiny.make_root(tmp_path_factory.mktemp("edited"))
    for variant, _ in CELLS:
        train(tiny.study(), root, variant, 0)
    return root


@pytest.fixture(autouse=True)
def tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(root: Path, name: str, study: Any) -> autoencoder.Tokenizer:
        torch.manual_seed(1)
        built = autoencoder.build(study.instances[name].config, study.data.image_size).eval().requires_grad_(False)
        if built.tokens == "ids":  # codes among the latents, so that images have more than one
            latents = built.encode_latents(to_float(picture(7)))
            built.net.quantize.embedding.weight.copy_(latents.flatten(2)[0].T[:12])
        return built

    monkeypatch.setattr(sampler.autoencoder, "load", load)


def picture(seed: int = 0) -> torch.Tensor:
    return Noise("picture", seed).integers(256, 1, 3, 8, 8).to(torch.uint8)


def drawn(root: Path, variant: str, setting: str, kept: Kept | None, cached: bool | None = None) -> torch.Tensor:
    """The tokens of three images of classes 1, 2, 3."""
    one = sampler.Sampler(tiny.study(), root, variant, 0)
    settings = tiny.study().sampling[setting]
    if cached is not None:
        settings = settings.model_copy(update={"kv_cache": cached})
    length = one.manifest.tokens
    order = Noise("order").permutations(3, length) if variant != "var" else torch.arange(length).expand(3, length)
    blank = torch.zeros(length, 2) if variant == "mar-diff" else torch.zeros(length, dtype=torch.long)
    return generate(one.model, torch.tensor([1, 2, 3]), order, blank, settings, Noise("draw"), kept)


@pytest.mark.parametrize(("variant", "setting"), CELLS)
def test_kept_tokens_stay_and_the_others_are_drawn(root: Path, variant: str, setting: str) -> None:
    plain = drawn(root, variant, setting, None)
    given = plain.roll(1, 0)
    mask = torch.arange(plain.shape[1]) % 3 == 0
    for cached in (None, True, False) if variant == "ar-ce" else (None,):
        found = drawn(root, variant, setting, Kept(given, mask, variant != "var"), cached)
        assert torch.equal(found[:, mask], given[:, mask])
        assert not torch.equal(found[:, ~mask], given[:, ~mask]) and not torch.equal(found[:, ~mask], plain[:, ~mask])
        other = given.flip(0)  # what stays decides what is drawn
        assert not torch.equal(drawn(root, variant, setting, Kept(other, mask, variant != "var"), cached), found)
    nothing = Kept(given, torch.zeros_like(mask), variant != "var")
    assert torch.equal(drawn(root, variant, setting, nothing), plain)  # to the bit
    everything = Kept(given, torch.ones_like(mask), variant != "var")
    assert torch.equal(drawn(root, variant, setting, everything), given)


@pytest.mark.parametrize(("variant", "setting", "begin"), [("mar-diff", "diff", 6), ("ar-ce", "ce", 0)])
def test_what_is_drawn_knows_all_that_stays(
    root: Path, variant: str, setting: str, begin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, mask = drawn(root, variant, setting, None).roll(1, 0), torch.arange(16) % 3 == 0
    calls: list[tuple[torch.Tensor, int]] = []
    inner = generating.conditions

    def watched(backbone: Any, tokens: Any, labels: Any, order: torch.Tensor, start: int, *rest: Any) -> Any:
        calls.append((order.clone(), start))
        return inner(backbone, tokens, labels, order, start, *rest)

    monkeypatch.setattr(generating, "conditions", watched)
    drawn(root, variant, setting, Kept(given, mask, True))
    assert calls[0][1] == begin  # MAR draws none of the six again; a causal model walks through them
    for order, _ in calls:
        assert order[:, :6].sort(1).values.tolist() == [[0, 3, 6, 9, 12, 15]] * 3


def test_kv_cache_changes_no_edit(root: Path) -> None:
    given = drawn(root, "ar-ce", "ce", None).roll(1, 0)
    kept = Kept(given, torch.arange(16) < 7, True)
    assert torch.equal(drawn(root, "ar-ce", "ce", kept, True), drawn(root, "ar-ce", "ce", kept, False))


def test_kept_tokens_come_first_in_the_order() -> None:
    order = Noise("order").permutations(5, 9)
    mask = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0, 0], dtype=torch.bool)
    found = kept_first(order, mask)
    for before, after in zip(order.tolist(), found.tolist(), strict=True):
        assert after == [i for i in before if mask[i]] + [i for i in before if not mask[i]]


def test_fair_draws_a_first_scale_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "as_tokens", lambda encoded, *_: encoded)
    of_scales: Any = SimpleNamespace(
        manifest=SimpleNamespace(kind="ids", scales=(4, 8), tokens=80),
        tokenizer=SimpleNamespace(encode=lambda x: x),
    )
    pixels, corner = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(32, 32, dtype=torch.bool)
    assert editing.keep(of_scales, pixels, corner, "fair", False).mask.all(), "nothing is masked"
    corner[:4, :4] = True
    assert editing.staying(corner, 4, "fair").any(), "by its neighbours alone some of the first scale would stay"
    stays = editing.keep(of_scales, pixels, corner, "fair", False).mask
    assert not stays[:16].any() and stays[16:].any()


def test_which_tokens_stay() -> None:
    masked = torch.zeros(8, 8, dtype=torch.bool)
    masked[2:4, 2:4] = True  # the token (1, 1) of 4 x 4
    fair = editing.staying(masked, 4, "fair")
    assert not fair[:3, :3].any() and fair[3].all() and fair[:, 3].all()  # it and its neighbours are drawn
    assert not editing.staying(masked, 1, "fair").any() and not editing.staying(masked, 2, "fair").any()
    published = editing.staying(masked, 4, "published")
    assert published.sum() == 15 and not published[1, 1]
    assert editing.staying(masked, 1, "published").all()  # up to three tokens stay
    wide = torch.ones(8, 8, dtype=torch.bool)
    wide[:, 5:] = False
    resized = F.interpolate((~wide)[None, None].float(), size=(4, 4), mode="bilinear", align_corners=False)[0, 0]
    assert torch.equal(editing.staying(wide, 4, "published"), resized > 0.5)
    assert all(
        editing.staying(torch.zeros_like(masked), side, p).all() for side in (1, 2, 4) for p in editing.PROTOCOLS
    )


@pytest.mark.parametrize(("variant", "setting"), CELLS)
def test_what_lies_under_the_mask_is_seen_by_the_published_protocol_alone(
    root: Path, variant: str, setting: str
) -> None:
    one = sampler.Sampler(tiny.study(), root, variant, 0)
    masked = torch.zeros(8, 8, dtype=torch.bool)
    masked[:4, :4] = True
    for protocol in editing.PROTOCOLS:
        found, latents = [], []
        for hidden in (0, 255):
            pixels = picture()
            pixels[:, :, :4, :4] = hidden
            kept = editing.keep(one, pixels, masked, protocol, variant != "var")
            found.append(torch.where(kept.mask if kept.tokens.ndim == 2 else kept.mask[:, None], kept.tokens, 0))
            latents.append(kept.latents)
            if variant == "var":
                assert kept.mask[0] == (protocol == "published")
        assert torch.equal(*found) == (protocol == "fair"), protocol
        if variant == "var" and protocol == "fair":
            assert torch.equal(*latents)
        else:
            assert latents == [None, None]


@pytest.mark.parametrize("smooth", [False, True])
def test_what_stays_of_a_scale_is_what_the_drawn_scales_leave_of_the_image(
    root: Path, smooth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiscale, "SMOOTHED", 0.0)  # so that the nearest code is the best one with untrained phi too
    one = sampler.Sampler(tiny.study(), root, "var", 0)
    masked = torch.zeros(8, 8, dtype=torch.bool)
    masked[:, :2] = True
    kept, length = editing.keep(one, picture(), masked, "fair", False), one.manifest.tokens
    settings = tiny.study().sampling["var"].model_copy(update={"more_smooth": smooth})

    def tokens(given: Kept) -> torch.Tensor:
        order, blank = torch.arange(length)[None], torch.zeros(length, dtype=torch.long)
        return generate(one.model, torch.tensor([1]), order, blank, settings, Noise("draw"), given)

    found, quantizer = tokens(kept), one.tokenizer.net.quantize
    assert kept.latents is not None
    *_, before, _ = quantizer.sums(found)  # without the last scale
    side = one.manifest.scales[-1]
    stays, last = kept.mask[-(side**2) :], found[:, -(side**2) :]
    assert stays.any() and not stays.all()
    rest = (kept.latents - before).flatten(2)[0].T  # (n, C)
    nearest = torch.cdist(rest, quantizer.embedding.weight).argmin(1)
    expected = quantizer.embedding(nearest) if smooth else nearest
    assert torch.equal(last[0][stays], expected[stays])
    without = tokens(replace(kept, latents=None))  # the tokens of the image itself, whatever is drawn before them
    errors = [(one.tokenizer.codes(x) - kept.latents).flatten(2)[0].T[stays].square().mean() for x in (found, without)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(("variant", "setting"), CELLS)
@pytest.mark.parametrize("protocol", editing.PROTOCOLS)
def test_a_mask_of_nothing_is_the_reconstruction(root: Path, variant: str, setting: str, protocol: str) -> None:
    one = sampler.Sampler(tiny.study(), root, variant, 0)
    kept = editing.keep(one, picture(), torch.zeros(8, 8, dtype=torch.bool), protocol, variant != "var")
    labels = torch.tensor([3])
    found = one.draw(tiny.study().sampling[setting], labels, Noise("edit"), kept)
    rebuilt = to_uint8(one.tokenizer.decode(one.tokenizer.encode(to_float(picture()))))
    assert (found.int() - rebuilt.int()).abs().max() <= 1  # latents are scaled and scaled back
    if variant != "mar-diff":
        assert torch.equal(found, rebuilt)


@pytest.mark.parametrize(("variant", "setting"), CELLS)
def test_a_fair_mask_of_everything_is_a_plain_sample(root: Path, variant: str, setting: str) -> None:
    one = sampler.Sampler(tiny.study(), root, variant, 0)
    pixels = torch.cat([picture(1), picture(2)])
    kept = editing.keep(one, pixels, torch.ones(8, 8, dtype=torch.bool), "fair", variant != "var")
    settings, labels = tiny.study().sampling[setting], torch.tensor([3, -1])
    plain = one.draw(settings, labels, Noise("edit"))
    assert torch.equal(one.draw(settings, labels, Noise("edit"), kept), plain)  # to the bit


def run(root: Path, folder: Path, *more: str, variant: str = "mar-diff", setting: str = "diff") -> Any:
    values = ["edit", "--study", str(root / "study.json"), "--variant", variant, "--seed", "0", "--setting", setting]
    return CliRunner().invoke(main, [*values, "--out", str(folder / "out.png"), *more])


def test_the_command_on_a_picture_of_any_size(root: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(np.full((3, 5), 255, np.uint8)).save(tmp_path / "all.png")
    for mask in ("0,0,1,1", str(tmp_path / "all.png")):
        done = run(root, tmp_path, "--image", str(tmp_path / "a.png"), "--mask", mask, "--class", "4", "--count", "2")
        assert done.exit_code == 0, done.output
        assert "2 draws; 100% of the tokens drawn (fair)" in done.output
        found = np.asarray(Image.open(tmp_path / "out.png"))
        assert found.shape == (8, 4 * 8 + 3 * editing.GAP, 3)
        assert (found[:, 10:18] == editing.GREY).all()
    box = run(root, tmp_path, "--image", str(tmp_path / "a.png"), "--mask", "0.5,0,0.5,1")  # of no pixel
    assert "0% of the tokens drawn" in box.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--mask", "0,0,2,1"), "mask '0,0,2,1'; accepted: x0,y0,x1,y1 with 0 <= x0 <= x1 <= 1"),
        (("--mask", "nowhere.png"), "nowhere.png: cannot be read as an image"),
        (("--mask", "0,0,1,1", "--class", "10"), "class 10; accepted: 0 to 9, or -1 for none"),
        (("--mask", "0,0,1,1", "--image", "README.md"), "README.md: cannot be read as an image"),
    ],
)
def test_refusals(root: Path, tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = run(root, tmp_path, "--image", str(tmp_path / "a.png"), *more)
    assert done.exit_code == 1 and said in done.output and not (tmp_path / "out.png").exists()


def test_another_sampling_seed_draws_others_and_rejection_is_refused(root: Path, tmp_path: Path) -> None:
    Image.fromarray(picture().squeeze(0).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")

    def edited(**more: Any) -> np.ndarray:
        setting = tiny.STUDY["sampling"]["diff"] | more
        of = tiny.study(sampling=tiny.STUDY["sampling"] | {"diff": setting}, rejecter={"images": 64})
        editing.edit(of, root, "mar-diff", 0, "diff", tmp_path / "a.png", "0,0,1,1", count=1, out=tmp_path / "out.png")
        return np.asarray(Image.open(tmp_path / "out.png"))

    plain = edited()
    assert np.array_equal(edited(seed=0), plain) and not np.array_equal(edited(seed=1), plain)
    with pytest.raises(ValueError, match=r"sampling\.diff: reject; accepted: a setting that draws once"):
        edited(reject={"threshold": 0.5, "tries": 2})
    setting = tiny.STUDY["sampling"]["diff"] | {"reject": {"threshold": 0.5, "tries": 2}}
    of = tiny.study(sampling=tiny.STUDY["sampling"] | {"diff": setting}, rejecter={"images": 64})
    with pytest.raises(ValueError, match=r"sampling\.diff: reject; accepted: a setting that draws once"):
        drawing.draw(of, root, "mar-diff", 0, "diff", 1, 1, tmp_path / "drawn.png")
