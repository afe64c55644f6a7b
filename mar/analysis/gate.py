"""The gate before a training: do the tokenizers leave Diffusion Loss something to win?

In the paper VQ-16 loses 5.87 of the FID of 8.79 that MAR has with cross-entropy, KL-16 1.43 of the 3.50 that it has
with Diffusion Loss (Tables 1 and 2). Where quantising costs next to nothing, or where both tokenizers cost nearly
all, a comparison of the two losses says nothing about the paper's. So a study may say in its section `gate` what FIDs
a pilot had, and its trainings wait until

    (rFID of VQ - its floor) / (FID with cross-entropy - floor)   is at least LEAST, and
    (rFID of KL - its floor) / (FID with Diffusion Loss - floor)  is below MOST.

Both are decided by their values: a gate is a matter of design and no verdict.
"""

from __future__ import annotations

from pathlib import Path

from mar.analysis.contrasts import combine
from mar.analysis.result_files import Estimate, short
from mar.analysis.rfid import over_seeds
from mar.runtime.files import read, write
from mar.runtime.provenance import provenance
from mar.study import layout
from mar.study.records import GateRecord, Metric, Range, RfidRecord, Share
from mar.study.sections import GateSide
from mar.study.study import Study

LEAST, MOST = 0.5, 0.4


def check(study: Study, root: Path) -> GateRecord:
    """Write gate.json with both shares, and print them.

    Raises:
        ValueError: the study has no section `gate`, a tokenizer has not been measured, or a share is not accepted; the
            message says what to change.
    """
    if study.gate is None:
        raise ValueError(f"{layout.study(Path(root))}: gate: missing; accepted: a section `gate` (docs/studies.md)")
    gate, root = study.gate, Path(root)
    crossent, diffloss = (_share(study, root, side, gate.floor) for side in (gate.crossent, gate.diffloss))
    for name, side in (("cross-entropy", crossent), ("Diffusion Loss", diffloss)):
        lost = f"{short(side.lost.value)} [{short(side.lost.low)}, {short(side.lost.high)}]"
        print(f"gate: {side.tokenizer} loses {lost}, {side.share:.0%} of the pilot's FID with {name}", flush=True)
    wrong = []
    if crossent.share < LEAST:
        wrong.append(
            f"gate.crossent: {crossent.tokenizer} loses {crossent.share:.0%} of the pilot's FID; accepted: at least "
            f"{LEAST:.0%}: fewer codes (tokenizers.{crossent.tokenizer}.codebook_size), or a pilot that trains longer"
        )
    if diffloss.share >= MOST:
        wrong.append(
            f"gate.diffloss: {diffloss.tokenizer} loses {diffloss.share:.0%} of the pilot's FID; accepted: below "
            f"{MOST:.0%}: a better tokenizer (tokenizers.{diffloss.tokenizer}: more images, smaller batches, more "
            "latent_channels)"
        )
    if wrong:
        raise ValueError(f"{layout.study(root)}: {'; '.join(wrong)}")
    record = GateRecord(
        crossent=crossent, diffloss=diffloss, floor=gate.floor, source=gate.source, provenance=provenance()
    )
    write(layout.gate(root), record)
    return record


def _share(study: Study, root: Path, side: GateSide, floor: float) -> Share:
    """What a tokenizer loses on the train split, as the paper measures it, as a share of the pilot's FID.

    With `per_seed` it is the mean over the tokenizers of all training seeds.
    """
    found: dict[str, list[Estimate]] = {"rfid": [], "floor": []}
    for name in (name for name, made in study.instances.items() if made.section == side.tokenizer):
        file = layout.rfid(root, name)
        record = read(file, RfidRecord)
        metrics = (record.train or record).metrics
        if "floor" not in metrics:
            raise ValueError(f"{file}: metrics.floor: missing; run `mar rfid --tokenizer {name}` again")
        for metric, estimates in found.items():
            estimates.append(_estimate(metrics[metric]))
    if not found["rfid"]:
        raise ValueError(f"gate: no variant is trained on tokenizer {side.tokenizer}; accepted: one that some are")
    several = len(found["rfid"]) > 1
    rfid = over_seeds(found["rfid"], [found["rfid"]]) if several else found["rfid"][0]
    lost = combine((1.0, rfid), (-1.0, found["floor"][0]))  # the floor is the same for all of them
    spread = Range(value=lost.value, low=lost.low, high=lost.high)
    return Share(tokenizer=side.tokenizer, lost=spread, fid=side.fid, share=lost.value / (side.fid - floor))


def _estimate(m: Metric) -> Estimate:
    return Estimate(m.value, m.low, m.high, m.n)
