"""The gate before a training: shares of what the tokenizers lose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fabricate import _values, cell, fabricate, write

from mar.analysis import gate
from mar.runtime.files import read, read_json
from mar.study import layout
from mar.study.reading import resolve
from mar.study.records import GateRecord
from mar.study.stage_keys import gate_key, train_key
from mar.study.study import Study

GATE = {
    "crossent": {"tokenizer": "vq", "fid": 21.0},
    "diffloss": {"tokenizer": "kl", "fid": 16.0},
    "floor": 1.0,
    "source": "pilot, seed 100",
}


def gated(**change: Any) -> Study:
    return resolve(_values(None) | {"gate": GATE | change}, "gated.yaml")


def lose(root: Path, vq: float, kl: float) -> None:
    """Write rfid.json of both tokenizers: on the train split with a floor of 0.5, on held-out images far more."""
    for name, value in (("vq", vq), ("kl", kl)):
        file = root / "tokenizers" / name / "rfid.json"
        metrics = {"rfid": cell(value + 0.5, 0.1, 40, False), "floor": cell(0.5, 0.01, 40, False)}
        write(file, read_json(file) | {"train": {"metrics": metrics, "split": "train", "count": 40}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gated")
    fabricate(gated(), root, lambda v, s, k: 20.0, images=False)
    return root


def test_it_writes_and_prints_both_shares(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lose(made, vq=12.0, kl=4.5)
    record = gate.check(gated(), made)
    assert read(layout.gate(made), GateRecord) == record
    assert (record.crossent.share, record.diffloss.share) == (pytest.approx(0.6), pytest.approx(0.3))
    assert record.crossent.lost.low < 12.0 < record.crossent.lost.high and record.source == "pilot, seed 100"
    said = capsys.readouterr().out
    assert "gate: vq loses 12.0 [11.8, 12.2], 60% of the pilot's FID with cross-entropy" in said
    assert "gate: kl loses 4.50 [4.30, 4.70], 30% of the pilot's FID with Diffusion Loss" in said


@pytest.mark.parametrize(
    ("vq", "kl", "message"),
    [
        (9.9, 4.5, r"gate.crossent: vq loses 50% .*at least 50%: fewer codes \(tokenizers.vq.codebook_size\)"),
        (12.0, 6.0, r"gate.diffloss: kl loses 40% .*below 40%: a better tokenizer \(tokenizers.kl: more images"),
        (2.0, 9.0, r"gate.crossent: vq loses 10% .*; gate.diffloss: kl loses 60%"),
    ],
)
def test_what_is_not_accepted_stops_the_trainings(made: Path, vq: float, kl: float, message: str) -> None:
    layout.gate(made).unlink(missing_ok=True)
    lose(made, vq, kl)
    with pytest.raises(ValueError, match=r"study\.json: " + message):
        gate.check(gated(), made)
    assert not layout.gate(made).exists()


def test_the_papers_own_tokenizers(made: Path) -> None:
    """VQ-16's share is 67%, far above half. KL-16's is 41%, so the gate asks for a little more than the paper has."""
    paper = gated(crossent={"tokenizer": "vq", "fid": 8.79}, diffloss={"tokenizer": "kl", "fid": 3.5}, floor=0.0)
    lose(made, vq=5.87, kl=1.43)
    with pytest.raises(ValueError, match=r"study\.json: gate\.diffloss: kl loses 41% ") as found:
        gate.check(paper, made)
    assert "crossent" not in str(found.value)


def test_a_floor_is_needed_and_so_is_the_section(made: Path) -> None:
    file = layout.rfid(made, "vq")
    lose(made, 12.0, 4.5)
    values = read_json(file)
    del values["train"]["metrics"]["floor"]
    write(file, values)
    with pytest.raises(ValueError, match=r"vq/rfid.json: metrics.floor: missing; run `mar rfid --tokenizer vq` again"):
        gate.check(gated(), made)
    with pytest.raises(ValueError, match=r"gate: missing; accepted: a section `gate`"):
        gate.check(gated().model_copy(update={"gate": None}), made)


def test_it_changes_no_training() -> None:
    plain = gated().model_copy(update={"gate": None})
    assert train_key(plain, "diff", 0) == train_key(gated(), "diff", 0) and gate_key(plain) != gate_key(gated())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crossent": {"tokenizer": "kl", "fid": 21.0}}, r"gate.crossent.tokenizer kl: accepted: a tokenizer of ids"),
        ({"diffloss": {"tokenizer": "vq", "fid": 16.0}}, r"gate.diffloss.tokenizer vq: accepted: .*continuous tokens"),
        ({"crossent": {"tokenizer": "vk", "fid": 21.0}}, r"gate.crossent.tokenizer: found 'vk'"),
        ({"floor": 17.0}, r"gate: diffloss.fid 16; accepted: above floor 17"),
    ],
)
def test_errors_name_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated(**change)
