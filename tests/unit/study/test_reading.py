"""Reading study files: extends, matrix, and keys of stages that change exactly when the question changes."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mar.study import reading as studies
from mar.study import stage_keys
from mar.study.reading import StudyError, load, resolve


def write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (folder / f"{name}.yaml").write_text(text)


def refusal(path: Path) -> str:
    with pytest.raises(StudyError) as caught:
        load(path)
    return str(caught.value)


class TestFile:
    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        assert (
            refusal(tmp_path / "no.yaml")
            == f"{tmp_path}/no.yaml: cannot be read: No such file or directory; accepted: a YAML file"
        )

    def test_a_text_is_parsed_once_and_nobody_changes_what_it_says(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, a="study: once\ndata: {kind: digits}\n")
        first = studies.read(tmp_path / "a.yaml")
        first["data"]["kind"] = "changed"
        monkeypatch.delattr(studies, "_Loader")
        assert studies.read(tmp_path / "a.yaml") == {"study": "once", "data": {"kind": "digits"}}
        write(tmp_path, a="study: edited\n")
        with pytest.raises(NameError):  # another text is parsed
            studies.read(tmp_path / "a.yaml")

    def test_a_list_is_no_study(self, tmp_path: Path) -> None:
        write(tmp_path, a="- 1\n")
        assert refusal(tmp_path / "a.yaml").endswith("a.yaml: found list; accepted: a mapping with the keys of a study")

    @pytest.mark.parametrize(
        ("content", "accepted"),
        [
            ("a: [1", "valid YAML"),
            ("a: b: c", "quotes around a text with a colon in it, or a key on a line of its own"),
            ("\ta: 1", "spaces in place of the tab"),
        ],
    )
    def test_no_yaml(self, tmp_path: Path, content: str, accepted: str) -> None:
        write(tmp_path, a=content)
        message = refusal(tmp_path / "a.yaml")
        assert "a.yaml:1: no valid YAML: " in message and message.endswith(f"; accepted: {accepted}")

    def test_binary_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
        assert "a.yaml: no valid YAML: " in refusal(tmp_path / "a.yaml")

    def test_a_key_said_twice_is_refused(self, study_file: Path) -> None:
        study_file.write_text(study_file.read_text() + "seed: 1\nseed: 2\n")
        message = refusal(study_file)
        assert "key 'seed' is there twice" in message
        assert message.startswith(f"{study_file}:{len(study_file.read_text().splitlines())}: no valid YAML: ")

    def test_a_key_over_a_merged_mapping_is_no_repetition(self, tmp_path: Path, values: dict[str, Any]) -> None:
        del values["recipes"]
        recipe = "{images: 640, batch: 64, checkpoint_images: 320, log_images: 64}"
        text = f"recipes:\n  short: &r {recipe}\n  long: {{<<: *r, images: 1280}}\n"
        write(tmp_path, a=yaml.safe_dump(values) + text)
        assert load(tmp_path / "a.yaml").recipes["long"].images == 1280

    def test_null_in_a_file_without_base_is_a_missing_value(self, tmp_path: Path, values: dict[str, Any]) -> None:
        write(tmp_path, a=values | {"speed": None})
        assert ": speed: found null; accepted: a mapping of keys to values" in refusal(tmp_path / "a.yaml")

    def test_a_study_that_its_classifier_judges_needs_one(self, tmp_path: Path, values: dict[str, Any]) -> None:
        write(tmp_path, a=values | {"classifier": None})
        assert "classifier: is needed by metrics.extractors" in refusal(tmp_path / "a.yaml")


class TestExtends:
    def test_mappings_merge_and_the_rest_is_replaced(self, tmp_path: Path, study_file: Path) -> None:
        change = {
            "extends": "tiny.yaml",
            "study": "b",
            "backbones": {"masked": {"width": 64}},
            "variants": {"mar": {"seeds": [1, 2]}},
        }
        write(tmp_path, b=change)
        base, study = load(study_file), load(tmp_path / "b.yaml")
        assert study.study == "b"
        assert study.backbones["masked"] == base.backbones["masked"].model_copy(update={"width": 64})
        assert study.backbones["causal"] == base.backbones["causal"]
        assert study.variants["mar"].seeds == (1, 2)
        assert study.variants["ar"] == base.variants["ar"]

    def test_null_takes_a_key_away(self, tmp_path: Path, study_file: Path) -> None:
        write(
            tmp_path,
            b={
                "extends": "tiny.yaml",
                "study": "b",
                "variants": {"ar": None},
                "tables": None,
                "backbones": {"masked": {"buffer": None}},
            },
        )
        study = load(tmp_path / "b.yaml")
        assert list(study.variants) == ["mar"]
        assert study.tables == {}
        assert study.backbones["masked"].buffer == 64  # the default again

    def test_what_is_taken_away_and_named_elsewhere_is_told_with_both_places(
        self, tmp_path: Path, study_file: Path
    ) -> None:
        (tmp_path / "b.yaml").write_text("extends: tiny.yaml\nstudy: b\nbackbones:\n  causal: null\n")
        message = refusal(tmp_path / "b.yaml")
        assert (
            message.startswith(f"{study_file}:") and "variants.ar.backbone: found 'causal'; accepted: masked" in message
        )
        assert f" ({tmp_path}/b.yaml:4 takes 'causal' away: change what names it too, or take that away)" in message
        (tmp_path / "b.yaml").write_text("extends: tiny.yaml\nstudy: b\nvariants:\n  mar: {backbone: causel}\n")
        assert "found 'causel'; acc" in refusal(tmp_path / "b.yaml") and " takes " not in refusal(tmp_path / "b.yaml")

    def test_null_of_a_needed_key_is_a_missing_key(self, tmp_path: Path, study_file: Path) -> None:
        write(tmp_path, b={"extends": "tiny.yaml", "study": "b", "metrics": None})
        assert refusal(tmp_path / "b.yaml") == f"{tmp_path}/b.yaml:2: metrics: is missing"

    def test_chain_from_another_folder(self, tmp_path: Path, study_file: Path) -> None:
        (tmp_path / "mine").mkdir()
        write(tmp_path, b={"extends": "tiny.yaml", "seed": 3, "title": "b"})
        write(tmp_path / "mine", c={"extends": "../b.yaml", "study": "c"})
        study = load(tmp_path / "mine" / "c.yaml")
        assert (study.study, study.seed) == ("c", 3)
        assert study.title == "", "the title of another study names its results"

    @pytest.mark.parametrize("study", [{}, {"study": None}])
    def test_a_study_that_extends_another_has_a_name_of_its_own(
        self, tmp_path: Path, study_file: Path, study: dict[str, Any]
    ) -> None:
        write(tmp_path, b={"extends": "tiny.yaml", **study})
        assert refusal(tmp_path / "b.yaml") == (
            f"{tmp_path}/b.yaml:1: study: is missing; accepted: a name of its own, so that no result of tiny.yaml is "
            "written over"
        )

    def test_a_shipped_study_is_found_by_its_name_from_anywhere(self, tmp_path: Path) -> None:
        write(tmp_path, a={"extends": "digits.yaml", "study": "a"})
        assert load(tmp_path / "a.yaml").backbones == load(Path("config/digits.yaml")).backbones
        write(tmp_path, digits={"extends": "demo.yaml", "study": "own", "seed": 5})
        assert load(tmp_path / "a.yaml").seed == 5, "a file of this name in the same folder comes first"
        write(tmp_path, b={"extends": "config/digits.yaml", "study": "b"})
        assert f"there is no file {tmp_path}/config/digits.yaml" in refusal(tmp_path / "b.yaml")

    @pytest.mark.parametrize("files", [
        {"a": {"extends": "a.yaml"}},
        {"a": {"extends": "b.yaml"}, "b": {"extends": "a.yaml"}},
        {"a": {"extends": "x/../b.yaml"}, "b": {"extends": "x/../c.yaml"}, "c": {"extends": "x/../b.yaml"}},
    ])  # fmt: skip
    def test_loop_is_refused(self, tmp_path: Path, files: dict[str, Any]) -> None:
        (tmp_path / "x").mkdir()
        write(tmp_path, **files)
        assert "extends itself through [" in refusal(tmp_path / "a.yaml")

    def test_missing_base_is_named_with_the_file_that_asks(self, tmp_path: Path) -> None:
        write(tmp_path, a={"extends": "b.yaml"}, b={"extends": "no.yaml"})
        assert refusal(tmp_path / "a.yaml") == (
            f"{tmp_path}/b.yaml: extends: found 'no.yaml', and there is no file {tmp_path}/no.yaml; accepted: a study "
            "file, or a shipped study by its name, as images.yaml"
        )

    @pytest.mark.parametrize("value", [["b.yaml"], None, 3])
    def test_one_path_is_accepted(self, tmp_path: Path, value: Any) -> None:
        write(tmp_path, a={"extends": value})
        assert f"extends: found {value!r}; accepted: the path of one study file" in refusal(tmp_path / "a.yaml")


class TestMatrix:
    @pytest.fixture
    def crossed(self, values: dict[str, Any]) -> dict[str, Any]:
        values["tables"], values["tradeoff"], values["variants"] = {}, [], {}
        values["matrix"] = {
            "name": "{backbone}-{order}",
            "tokenizer": "kl",
            "head": "diffloss",
            "order": ["raster", "random"],
            "backbone": ["causal", "masked"],
            "recipe": "short",
            "sampling": [],
        }
        return values

    def names(self, values: dict[str, Any]) -> list[str]:
        return sorted(resolve(values, "a.yaml").variants)

    def refusal(self, values: dict[str, Any]) -> str:
        with pytest.raises(StudyError) as caught:
            resolve(values, "a.yaml")
        return str(caught.value)

    def test_lists_are_crossed_and_the_rest_is_shared(self, crossed: dict[str, Any]) -> None:
        variants = resolve(crossed, "a.yaml").variants
        assert sorted(variants) == ["causal-random", "causal-raster", "masked-random", "masked-raster"]
        one = variants["masked-raster"]
        assert (one.tokenizer, one.order.kind, one.backbone, one.head) == ("kl", "raster", "masked", "diffloss")

    def test_exclude_drops_what_agrees_with_a_rule(self, crossed: dict[str, Any]) -> None:
        crossed["matrix"]["exclude"] = [{"backbone": "masked", "order": "raster"}]
        assert self.names(crossed) == ["causal-random", "causal-raster", "masked-random"]
        crossed["matrix"]["exclude"] = [{"backbone": "masked"}]
        assert self.names(crossed) == ["causal-random", "causal-raster"]

    def test_explicit_variants_change_add_and_drop(self, crossed: dict[str, Any]) -> None:
        extra = {
            "tokenizer": "vq",
            "order": "random",
            "backbone": "masked",
            "head": "crossent",
            "recipe": "short",
            "sampling": [],
        }
        crossed["variants"] = {"causal-raster": {"seeds": [7]}, "masked-raster": None, "mine": extra}
        variants = resolve(crossed, "a.yaml").variants
        assert sorted(variants) == ["causal-random", "causal-raster", "masked-random", "mine"]
        assert variants["causal-raster"].seeds == (7,)
        assert variants["causal-raster"].order.kind == "raster"

    def test_no_variants_key_is_needed(self, crossed: dict[str, Any]) -> None:
        del crossed["variants"]
        assert len(self.names(crossed)) == 4

    def test_the_mapping_that_was_read_stays_as_it_is(self, crossed: dict[str, Any]) -> None:
        before = copy.deepcopy(crossed)
        resolve(crossed, "a.yaml")
        assert crossed == before

    @pytest.mark.parametrize("name", ["{backbone}-{haed}", "{}", "{backbone", "{backbone.x}"])
    def test_template_of_unknown_factors(self, crossed: dict[str, Any], name: str) -> None:
        crossed["matrix"]["name"] = name
        message = self.refusal(crossed)
        assert message.startswith("a.yaml: matrix.name: ")
        assert f"in {name!r}; accepted: {{order}}, {{backbone}}" in message

    def test_two_combinations_of_one_name(self, crossed: dict[str, Any]) -> None:
        crossed["matrix"]["name"] = "{backbone}"
        assert "matrix.name: '{backbone}' calls two combinations 'causal'; name every factor" in self.refusal(crossed)

    @pytest.mark.parametrize("rule", [{"recipe": "short"}, {}, "masked"])
    def test_exclude_that_could_never_match(self, crossed: dict[str, Any], rule: Any) -> None:
        crossed["matrix"]["exclude"] = [rule]
        assert (
            f"a.yaml: matrix.exclude: found {rule!r}; accepted: a mapping of crossed factors (order, backbone)"
            in self.refusal(crossed)
        )

    @pytest.mark.parametrize("matrix", [[1], {}, {"name": 3}])
    def test_a_matrix_needs_a_name(self, values: dict[str, Any], matrix: Any) -> None:
        assert "a.yaml: matrix: needs name" in self.refusal(values | {"matrix": matrix})

    def test_variants_must_be_a_mapping(self, crossed: dict[str, Any]) -> None:
        crossed["variants"] = ["mar"]
        assert "a.yaml: variants: found list; accepted: a mapping of variants" in self.refusal(crossed)


def all_keys(study: studies.Study) -> dict[str, str]:
    found = {"classifier": stage_keys.classifier_key(study), "metrics": stage_keys.metrics_key(study)}
    for name in study.instances:
        found[f"tokenizer {name}"] = stage_keys.tokenizer_key(study, name)
    for name, variant in study.variants.items():
        found[f"speed {name}"] = stage_keys.speed_key(study, name)
        found[f"train {name}"] = stage_keys.train_key(study, name, 0)
        for setting in variant.sampling:
            found[f"sample {name} {setting}"] = stage_keys.sample_key(study, name, setting)
    return found


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {key: shuffled(value[key], rng) for key in keys}
    return value


# what is changed -> the stage keys that change with it, and no other
CHANGES: dict[str, tuple[Any, set[str]]] = {
    "title": ("other", set()),
    "seed": (1, {"classifier", "metrics", "tokenizer kl", "tokenizer vq",
                 "train ar", "train mar", "sample ar ar", "sample mar mar"}),
    "data.holdout": (0.3, {"classifier", "tokenizer kl", "tokenizer vq"}),
    "tokenizers.kl.learning_rate": (2e-3, {"tokenizer kl"}),
    "backbones.masked.width": (64, {"train mar"}),
    "heads.diffloss.noise_draws": (4, {"train mar"}),
    "recipes.short.ema": (0.99, {"train ar", "train mar"}),
    "variants.mar.order": ("raster", {"train mar", "sample mar mar"}),
    "variants.mar.seeds": ([0, 1], set()),
    "sampling.mar.steps": (4, {"sample mar mar", "speed mar"}),
    "sampling.mar.clamp": (4.0, {"sample mar mar", "speed mar"}),
    "classifier.images": (1280, {"classifier"}),
    "metrics.samples": (200, {"sample ar ar", "sample mar mar"}),
    "metrics.bootstrap": (30, {"metrics"}),
    "speed.batches": (5, {"speed ar", "speed mar"}),
    "tables.table1.title": ("other", set()),
    "tradeoff": ([], {"speed mar"}),
    "recipes.short.gradient_checkpointing": (True, set()),  # the same bits with less memory
}  # fmt: skip


class TestSlices:
    @settings(max_examples=20, deadline=None, derandomize=True)  # a busy machine is no failure
    @given(seed=st.integers(0, 2**32))
    def test_order_of_keys_changes_nothing(self, seed: int) -> None:
        values = yaml.safe_load(Path("config/digits.yaml").read_text())
        assert all_keys(resolve(shuffled(values, random.Random(seed)), "a.yaml")) == all_keys(resolve(values, "a.yaml"))

    @pytest.mark.parametrize(
        ("section", "defaults"),
        [
            ("recipes.short", {"ema": 0.9999, "betas": [0.9, 0.95], "schedule": "constant", "micro_batch": None}),
            ("sampling.mar", {"guidance": 1, "temperature": 1.0, "clamp": None, "kv_cache": False}),
            ("backbones.masked", {"dropout": 0.1, "mlp_ratio": 4}),
            ("metrics", {"neighbours": 3}),
            ("data", {"flip": False, "holdout": 0.2}),
        ],
    )
    def test_a_default_said_aloud_changes_nothing(
        self, values: dict[str, Any], section: str, defaults: dict[str, Any]
    ) -> None:
        before = all_keys(resolve(values, "a.yaml"))
        node = values
        for key in section.split("."):
            node = node[key]
        node |= defaults
        assert all_keys(resolve(values, "a.yaml")) == before

    @pytest.mark.parametrize("path", CHANGES)
    def test_a_change_reaches_what_depends_on_it(self, values: dict[str, Any], path: str) -> None:
        value, expected = CHANGES[path]
        before = all_keys(resolve(values, "a.yaml"))
        *folders, last = path.split(".")
        node = values
        for key in folders:
            node = node[key]
        node[last] = value
        after = all_keys(resolve(values, "a.yaml"))
        assert {name for name in before if before[name] != after[name]} == expected

    def test_a_new_variant_retrains_nothing(self, values: dict[str, Any]) -> None:
        before = all_keys(resolve(values, "a.yaml"))
        values["variants"]["more"] = values["variants"]["mar"] | {"order": "raster"}
        after = all_keys(resolve(values, "a.yaml"))
        assert before.items() <= after.items()

    def test_renaming_a_part_retrains_nothing(self, values: dict[str, Any]) -> None:
        before = stage_keys.train_key(resolve(values, "a.yaml"), "mar", 0)
        values["recipes"]["other"] = values["recipes"]["short"]
        values["variants"]["mar"]["recipe"] = "other"
        assert stage_keys.train_key(resolve(values, "a.yaml"), "mar", 0) == before

    def test_training_seeds_differ(self, values: dict[str, Any]) -> None:
        study = resolve(values, "a.yaml")
        assert stage_keys.train_key(study, "mar", 0) != stage_keys.train_key(study, "mar", 1)


class TestResolved:
    @pytest.mark.parametrize("name", ["digits", "demo", "demo-digits", "fashion", "smoke"])
    def test_reads_back_equal(self, name: str, tmp_path: Path) -> None:
        study = load(f"config/{name}.yaml")
        path = studies.write_resolved(study, tmp_path)
        assert path == tmp_path / name / "study.json"
        again = load(path)
        assert again == study
        assert all_keys(again) == all_keys(study)

    def test_written_only_when_it_differs(self, tmp_path: Path, values: dict[str, Any]) -> None:
        path = studies.write_resolved(resolve(values, "a.yaml"), tmp_path)
        inode = path.stat().st_ino  # an atomic write makes a new file
        studies.write_resolved(resolve(values, "a.yaml"), tmp_path)
        assert path.stat().st_ino == inode
        studies.write_resolved(resolve(values | {"seed": 5}, "a.yaml"), tmp_path)
        assert load(path).seed == 5


class TestCommand:
    """The files that a command of Snakemake names, before Snakemake reads them."""

    @pytest.mark.parametrize(
        "words",
        [
            ["--configfile", "{}"],
            ["-n", "--configfiles", "{}", "--cores", "1"],
            ["--configfile={}"],
            ["--configfile", "{}", "{}"],
        ],
    )
    def test_a_file_that_is_no_study_ends_the_process(self, words: list[str], tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("- a\n")
        with pytest.raises(SystemExit) as stop:
            studies.check_command([word.format(tmp_path / "a.yaml") for word in words])
        assert stop.value.code == f"Error: {tmp_path}/a.yaml: found list; accepted: a mapping with the keys of a study"

    def test_a_study_and_other_words_pass(self, study_file: Path) -> None:
        studies.check_command(["all", "--configfile", str(study_file), "--config", "study=x", "-n", "nothere.yaml"])
