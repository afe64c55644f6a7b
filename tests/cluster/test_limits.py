"""Time limits: a training longer than its slot goes on in the next, and work that does not save is told so."""

from __future__ import annotations

from place import Place, finish


def test_a_training_longer_than_its_time_limit(slow: dict[str, Place]) -> None:
    place = slow["long"]
    assert place.head
    status, out, err = finish(place.head, 400)
    assert status == 0, out + err
    assert (place.folder / "done").read_text() == " ".join(str(step) for step in range(450))
    assert len(place.runs()) >= 2 and len(place.submitted()) == 1 and "SIGUSR2: leaving" in out


def test_a_time_limit_without_saving_is_told(slow: dict[str, Place]) -> None:
    place = slow["deaf"]
    assert place.head
    status, _, err = finish(place.head, 200)
    assert status == 1
    assert "TIMEOUT" in err and "`runtime`" in err and "`slurm_signal`" in err
