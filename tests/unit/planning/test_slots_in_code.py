"""A job that keeps no partial result and does not fit its slot is named before it burns slots."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from mar.planning import kept_costs, plan, slots


def test_what_does_not_fit_its_slot_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hour = 3600 * plan.PEAK["fp32"] * plan.UTILISATION
    jobs = [plan.Job("speed", "dit-xl", 1, flops=16 * hour), plan.Job("rfid", "kl", 1, flops=13.2 * hour)]
    jobs += [plan.Job("train", "mar/seed0", 1, flops=900 * hour), plan.Job("speed", "small", 1, flops=hour)]
    monkeypatch.setattr(kept_costs, "find", lambda *_: None)
    assert slots.too_long(tiny.study(), tmp_path) == []
    monkeypatch.setattr(kept_costs, "find", lambda *_: object())
    monkeypatch.setattr(plan, "jobs", lambda *_: jobs)
    assert slots.too_long(tiny.study(), tmp_path) == []  # a day each, by the table
    said = slots.too_long(tiny.study(), tmp_path, {"speed": 240, "rfid": 1440})
    assert [line.split(":")[0] for line in said] == ["speed dit-xl"]
    assert "about 16.0 A100 hours, and its slot has 4.0" in said[0] and "{speed: {runtime: 1020}}" in said[0]
