"""Published files that a study needs are fetched by the workflow, once, and only where they are not on disk."""

from __future__ import annotations

from typing import Any

STUDY = """extends: smoke.yaml
study: judged
metrics: {extractors: [classifier, inception, clean, dinov2], reference: {file: FILE, unknown_hash: true}}
"""


def test_weights_and_reference_are_fetched_where_they_are_not_on_disk(project: Any) -> None:
    study = project.folder / "config" / "judged.yaml"
    study.write_text(STUDY.replace("FILE", "adm-imagenet256"))
    call = ("all", "--configfile", "config/judged.yaml")
    plan = project.plan(*call)
    assert plan["fetch"] == ["adm-imagenet256.npz", "dinov2-vitl14.pth", "inception.pth"]
    assert "fetch adm-imagenet256 2>&1" in project.snakemake("-n", "-p", *call)
    cached = project.folder / "cache" / "torch" / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth"
    own = project.folder / "results" / "assets" / "downloads" / "adm-imagenet256.npz"
    for path in (cached, own):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"somebody put it there")
    assert project.plan(*call)["fetch"] == ["inception.pth"]

    study.write_text(STUDY.replace("FILE", "nowhere.npz"))
    assert "metrics.reference.file: found 'nowhere.npz'; accepted: a name in config/assets.csv" in project.fails(
        "-n", *call
    )
    (project.folder / "real.npz").write_bytes(b"a file of one's own")
    study.write_text(STUDY.replace("FILE", "real.npz"))
    assert project.plan(*call)["fetch"] == ["inception.pth"]
