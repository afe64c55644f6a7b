"""How many images go through a network at once: rules of the models, the study's section, recipes."""

import pytest
from tiny import STUDY, study

from mar.study import at_once, stage_keys
from mar.study.reading import load

WHOLE = STUDY["metrics"]["chunk"]


@pytest.mark.parametrize(
    ("count", "most", "size"), [(250, 250, 250), (250, 300, 250), (250, 249, 125), (250, 100, 84), (7, 3, 3), (5, 1, 1)]
)
def test_groups_are_as_few_and_as_equal_as_can_be(count, most, size):
    assert at_once.groups(count, most) == size <= most
    assert at_once.groups(count, size) == size  # so that a recorded size says the same again


def test_a_laptop_study_draws_and_decodes_whole_chunks():
    for of in (study(), load("config/digits.yaml"), load("config/fashion64.yaml")):
        assert all(
            at_once.of_samples(of, name, of.sampling[s]) == {} for name, v in of.variants.items() for s in v.sampling
        )
        assert all(at_once.of_tokens(of, name) == {} for name in of.tokenizers)
        assert all(at_once.of_features(of, name) == {} for name in of.metrics.extractors)


def test_keys_and_values_that_are_too_large_are_drawn_in_halves():
    of = load("config/var256.yaml")
    sizes = {name: at_once.drawn(of, name, of.sampling["var-cfg"], 250) for name in ("var-d16", "var-d24", "var-d30")}
    assert sizes == {"var-d16": 250, "var-d24": 250, "var-d30": 125}
    assert at_once.drawn(of, "var-d30", of.sampling["var"], 250) == 250
    in_full = of.sampling["var-cfg"].model_copy(update={"dtype": "fp32"})  # twice the bytes
    assert at_once.drawn(of, "var-d30", in_full, 250) == 63


def test_large_images_are_encoded_and_decoded_in_parts():
    of = load("config/imagenet512.yaml")
    assert at_once.encoded(of, "kl16-ours", 250) == 84 and at_once.decoded(of, "kl16-ours", 125) == 63
    assert at_once.of_tokens(of, "kl16-ours") == {at_once.ENCODED: 84}
    smaller = load("config/imagenet256.yaml")
    assert at_once.of_tokens(smaller, "kl16-ours") == {}
    assert [at_once.decoded(smaller, name, 250) for name in ("kl16-ours", "sd-vae", "consistency")] == [250, 250, 42]


def test_a_study_says_other_numbers_which_change_no_key():
    plain, other = study(), study(memory={"gpu_gib": 8, "sampling": 4, "decode": 5, "encode": 6, "features": 7})
    settings = other.sampling["diff"]
    assert at_once.of_samples(other, "mar-diff", settings) == {
        at_once.DRAWN: at_once.groups(WHOLE, 4),
        at_once.DECODED: at_once.groups(WHOLE, 5),
    }
    assert at_once.of_tokens(other, "kl") == {at_once.ENCODED: at_once.groups(250, 6)}
    assert at_once.of_features(other, "classifier") == {at_once.LOOKED_AT: 7}
    for key in (stage_keys.report_key, stage_keys.metrics_key, stage_keys.classifier_key):
        assert key(other) == key(plain)
    assert stage_keys.sample_key(other, "mar-diff", "diff") == stage_keys.sample_key(plain, "mar-diff", "diff")
    assert stage_keys.tokenizer_key(other, "kl") == stage_keys.tokenizer_key(plain, "kl")


def test_what_a_recipe_says_counts():
    of = study(memory={"sampling": 1})
    begun = at_once.as_begun(of, {at_once.DRAWN: 2, "checkpoint": "x"})
    settings = of.sampling["diff"]
    assert at_once.drawn(begun, "mar-diff", settings, WHOLE) == at_once.groups(WHOLE, 2)
    assert at_once.decoded(begun, "kl", WHOLE) == WHOLE
    assert at_once.of_samples(at_once.as_begun(of, {}), "mar-diff", settings) == {}
