"""Import of published weights: what is read, what the names become, and what is refused."""

import os
import zipfile
from pathlib import Path

import published
import pytest
import torch
from safetensors.torch import load_file, save_file

from mar.runtime.files import read, sha256
from mar.study.parts import Tokenizer as TokenizerConfig
from mar.study.records import ImportCounts, ImportedFile, ImportRecord
from mar.tokenizers.autoencoder import build
from mar.weights.importing import import_weights
from mar.weights.names import FORMATS, from_diffusers, from_ldm


def test_mar_takes_the_average_and_tells_everything_else(tmp_path, capsys):
    file = published.mar_checkpoint(tmp_path / "checkpoint-last.pth")
    report = import_weights("official-mar", file, "mar-tiny", tmp_path)
    ours, average = load_file(tmp_path / "mar-tiny.safetensors"), published.weights("mar_tiny")
    assert len(ours) == len(average)
    for name, tensor in average.items():
        head = name.startswith("diffloss.")
        assert torch.equal(ours["head." + name[len("diffloss.") :] if head else "backbone." + name], tensor)
    assert report == read(tmp_path / "mar-tiny.json", ImportRecord)
    assert report.architecture == {
        "kind": "masked", "width": 32, "depth": 2, "mlp_ratio": 4.0, "buffer": 8, "tokens": 64, "token_dim": 4,
        "classes": 10, "head_width": 32, "head_depth": 2,
    }  # fmt: skip
    assert report.beside["model"] == f"{len(average)} tensors"
    assert report.beside["args"] == "model=mar_tiny, buffer_size=8, output_dir=x"
    assert set(report.beside) == {"model", "optimizer", "epoch", "args"}
    assert report.sha256 == sha256(tmp_path / "mar-tiny.safetensors")
    assert report.source == ImportedFile(file=file.name, sha256=sha256(file), size=file.stat().st_size)
    assert report.parameters == sum(t.numel() for t in average.values())
    assert report.tensors["backbone.class_emb.weight"] == "class_emb.weight 10x32 float32"
    printed = capsys.readouterr().out
    assert all(name in printed for name in average)
    assert f"{len(average)} tensors" in printed and "0 dropped, none missing, none unexpected" in printed


def test_a_second_import_of_the_same_file_changes_nothing(tmp_path, capsys):
    file = published.mar_checkpoint(tmp_path / "a.pth")
    import_weights("official-mar", file, "a", tmp_path)
    before = (tmp_path / "a.json").stat().st_mtime_ns
    import_weights("official-mar", file, "a", tmp_path)
    assert (tmp_path / "a.json").stat().st_mtime_ns == before
    assert "imported already" in capsys.readouterr().out


def test_files_of_old_torch_and_flat_safetensors_are_read(tmp_path):
    old = published.mar_checkpoint(tmp_path / "old.pth", zipped=False)
    save_file(published.weights("mar_tiny"), tmp_path / "flat.safetensors")
    (tmp_path / "out").mkdir()
    a = import_weights("official-mar", old, "a", tmp_path / "out")
    b = import_weights("official-mar", tmp_path / "flat.safetensors", "b", tmp_path / "out")
    assert a.sha256 == b.sha256 and b.beside == {}


def test_lightning_classes_need_not_be_installed_and_losses_are_counted(tmp_path, capsys):
    file = published.lightning_checkpoint(tmp_path / "model.ckpt", published.kl_weights())
    report = import_weights("ldm-kl", file, "kl", tmp_path)
    assert report.counts == ImportCounts(mapped=len(published.kl_weights()), dropped=2)
    assert set(report.dropped) == {"loss.logvar", "loss.discriminator.main.0.weight"}
    assert set(report.beside) == {"epoch", "pytorch-lightning_version", "callbacks", "hyper_parameters"}
    assert "dropped 2 tensors of the training loss" in capsys.readouterr().out


def test_a_zip_with_one_checkpoint_is_unpacked_for_the_import_only(tmp_path):
    inner = published.lightning_checkpoint(tmp_path / "model.ckpt", published.kl_weights())
    with zipfile.ZipFile(tmp_path / "kl.zip", "w") as archive:
        archive.write(inner, "model.ckpt")
        archive.writestr("README", "hello")
    (tmp_path / "out").mkdir()
    report = import_weights("ldm-kl", tmp_path / "kl.zip", "kl", tmp_path / "out")
    assert report.source.sha256 == sha256(tmp_path / "kl.zip")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".lock", "kl.json", "kl.safetensors"]
    with zipfile.ZipFile(tmp_path / "kl.zip", "a") as archive:
        archive.write(inner, "second.ckpt")
    with pytest.raises(ValueError, match=r"kl.zip: found \['model.ckpt', 'README', 'second.ckpt'\]; accepted: a zip"):
        import_weights("ldm-kl", tmp_path / "kl.zip", "kl", tmp_path / "out")


@pytest.mark.parametrize("attention", ["middle", "encoder", "both"])
def test_vq_goes_into_diffusers_class_with_attention_where_it_was(tmp_path, attention):
    config = {"kind": "vq", "stride": 4, "channels": [32, 32, 64], "layers": 2, "latent_channels": 8}
    config |= {"codebook_size": 24, "attention": attention}
    tokenizer = build(TokenizerConfig.of(pretrained=True, **config), 32).eval()
    file = published.lightning_checkpoint(tmp_path / "vq.ckpt", published.ldm_names(tokenizer.net.state_dict(), 3))
    report = import_weights("ldm-vq", file, "vq", tmp_path)
    assert report.architecture == config
    ours = load_file(tmp_path / "vq.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in tokenizer.net.state_dict().items())
    with pytest.raises(ValueError, match="it is a vq autoencoder; accepted: format ldm-vq"):
        import_weights("ldm-kl", file, "kl", tmp_path)


def test_names_of_the_published_vq16():
    # Written down from LDM's model of 5 levels, with attention at the last one.
    names = {
        "encoder.conv_in.weight": "encoder.conv_in.weight",
        "encoder.down.4.block.1.norm1.weight": "encoder.down_blocks.4.resnets.1.norm1.weight",
        "encoder.down.4.attn.1.q.weight": "encoder.down_blocks.4.attentions.1.to_q.weight",
        "encoder.down.2.block.0.nin_shortcut.bias": "encoder.down_blocks.2.resnets.0.conv_shortcut.bias",
        "encoder.down.0.downsample.conv.weight": "encoder.down_blocks.0.downsamplers.0.conv.weight",
        "encoder.mid.block_2.conv1.weight": "encoder.mid_block.resnets.1.conv1.weight",
        "encoder.mid.attn_1.norm.weight": "encoder.mid_block.attentions.0.group_norm.weight",
        "decoder.up.4.attn.2.proj_out.weight": "decoder.up_blocks.0.attentions.2.to_out.0.weight",
        "decoder.up.4.upsample.conv.bias": "decoder.up_blocks.0.upsamplers.0.conv.bias",
        "decoder.up.0.block.2.conv2.weight": "decoder.up_blocks.4.resnets.2.conv2.weight",
        "decoder.norm_out.weight": "decoder.conv_norm_out.weight",
        "quantize.embedding.weight": "quantize.embedding.weight",
        "post_quant_conv.weight": "post_quant_conv.weight",
    }
    mapped = from_ldm({name: torch.zeros(8, 8, 1, 1) for name in names})
    assert mapped.sources == {ours: name for name, ours in names.items()}
    assert {name: tensor.ndim for name, tensor in mapped.tensors.items() if ".to_" in name} == {
        name: 2 for name in names.values() if ".to_" in name
    }


def test_old_attention_names_of_diffusers():
    old = {f"encoder.mid_block.attentions.0.{part}.weight": torch.zeros(4, 4, 1, 1) for part in ("query", "proj_attn")}
    mapped = from_diffusers(old | {"encoder.conv_in.bias": torch.zeros(4)})
    assert {k: v.ndim for k, v in mapped.tensors.items()} == {
        "encoder.mid_block.attentions.0.to_q.weight": 2,
        "encoder.mid_block.attentions.0.to_out.0.weight": 2,
        "encoder.conv_in.bias": 1,
    }


def test_diffusers_kl_in_half_precision_becomes_float32(tmp_path):
    config = {"kind": "kl", "stride": 2, "channels": [32, 32], "layers": 1, "latent_channels": 4}
    net = build(TokenizerConfig.of(pretrained=True, **config), 8).net
    save_file({k: v.half() for k, v in net.state_dict().items()}, tmp_path / "vae.safetensors")
    (tmp_path / "out").mkdir()
    report = import_weights("diffusers-kl", tmp_path / "vae.safetensors", "vae", tmp_path / "out")
    assert report.architecture == config | {"attention": "middle"}
    assert report.tensors["quant_conv.bias"] == "quant_conv.bias 8 float16"
    assert {t.dtype for t in load_file(tmp_path / "out" / "vae.safetensors").values()} == {torch.float32}


def test_dit_by_its_published_names(tmp_path):
    from mar.models.dit import DiT, from_official

    file, weights = tmp_path / "DiT.pt", published.weights("dit_tiny")
    torch.save(weights, file)
    report = import_weights("dit", file, "dit", tmp_path)
    assert report.architecture == {
        "kind": "dit", "width": 48, "depth": 2, "patch": 2, "grid": 8, "token_dim": 4, "classes": 10,
    }  # fmt: skip
    assert list(report.dropped) == ["pos_embed"]
    ours = load_file(tmp_path / "dit.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in from_official(weights).items())
    assert issubclass(DiT, torch.nn.Module) and "blocks.1.attn.qkv.bias 16" not in report.tensors.values()
    torch.save(weights | {"pos_embed": weights["pos_embed"] + 0.1}, file)
    with pytest.raises(ValueError, match="pos_embed is not the published table"):
        import_weights("dit", file, "dit", tmp_path)


def test_missing_unexpected_and_wrong_shapes_are_all_named(tmp_path):
    changed = {"mask_token": None, "extra": torch.zeros(2), "decoder_norm.weight": torch.zeros(31)}
    file = published.mar_checkpoint(tmp_path / "bad.pth", **changed)
    with pytest.raises(ValueError, match="3 tensors do not fit") as error:
        import_weights("official-mar", file, "bad", tmp_path)
    message = str(error.value)
    assert message.startswith(f"{file}: as official-mar {{'kind': 'masked', 'width': 32")
    assert "missing: backbone.mask_token [1, 1, 32]" in message
    assert "unexpected: extra, which becomes backbone.extra [2]" in message
    assert "shape: decoder_norm.weight is [31]; accepted: [32] (backbone.decoder_norm.weight)" in message
    assert not list(tmp_path.glob("bad.safetensors")) and not list(tmp_path.glob("bad.json"))


@pytest.mark.parametrize("format", ["official-mar", "ldm-vq", "diffusers-kl", "consistency-decoder", "dit"])
def test_a_file_of_another_format_is_refused(tmp_path, format):
    file = published.lightning_checkpoint(tmp_path / "kl.ckpt", published.kl_weights())
    save_file(published.kl_weights(), tmp_path / "kl.safetensors")
    path = file if format == "official-mar" else tmp_path / "kl.safetensors"
    with pytest.raises(ValueError, match=f"{path.name}: (as {format}: |found keys .* accepted: model_ema)"):
        import_weights(format, path, "x", tmp_path / "out")


def test_an_unknown_format_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"format 'mar': accepted: {', '.join(FORMATS)}"):
        import_weights("mar", tmp_path / "x", "x", tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        import_weights("dit", tmp_path / "x", "x", tmp_path)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, zipped):
    proof, file = tmp_path / "proof", tmp_path / "evil.pth"
    torch.save(
        {"model_ema": published.weights("mar_tiny"), "args": Evil(proof)}, file, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(ValueError, match=r"evil\.pth: .*(posix|nt)[. ]system.*no code of a file is run"):
        import_weights("official-mar", file, "evil", tmp_path)
    assert not proof.exists()


def test_torchscript_is_refused_and_the_other_file_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "decoder.pt", "w") as archive:
        for member in ("decoder/data.pkl", "decoder/constants.pkl", "decoder/code/__torch__.py"):
            archive.writestr(member, b"")
    with pytest.raises(ValueError, match=r"TorchScript .* take diffusers' diffusion_pytorch_model.safetensors"):
        import_weights("consistency-decoder", tmp_path / "decoder.pt", "cd", tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04 truncated"])
def test_no_checkpoint_at_all(tmp_path, content):
    for suffix in (".pt", ".safetensors"):
        file = tmp_path / f"broken{suffix}"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"broken{suffix}: "):
            import_weights("dit", file, "x", tmp_path)
