"""How early a large training is warned."""

from pathlib import Path

import pytest

from mar.planning import costs
from mar.study import reading, sizes

CONFIG = Path(__file__).parents[3] / "config"


@pytest.mark.parametrize(("file", "variant"), [("imagenet256", "mar-h"), ("var256", "var-d30")])
def test_the_estimate_is_near_the_count(file, variant):
    study = reading.load(CONFIG / f"{file}.yaml")
    backbone, head, _, tokens = costs.parts(study, variant, 1000)
    counted = costs.count_parameters(costs.model_of(backbone, head, tokens))
    assert sizes.parameters(study, variant) == pytest.approx(counted, rel=0.1)


def test_seconds_grow_with_the_state():
    var = reading.load(CONFIG / "var256.yaml")
    assert 250 < sizes.warning(var, "var-d30") < 350 and sizes.warning(var, "var-d16") < 120
    digits = reading.load(CONFIG / "digits.yaml")
    assert all(sizes.warning(digits, name) <= sizes.DEFAULT for name in digits.variants)
