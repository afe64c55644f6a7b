"""What a study file says in short is what it would say at length."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mar.study.reading import StudyError, load, read, resolve, write_resolved
from mar.study.study import Study

# Settings, lists and curves of digits.yaml at length.
DIGITS = """
sampling:
  mar-ce-2: {steps: 2, temperature: 0.95}
  mar-ce-4: {steps: 4, temperature: 0.95}
  mar-ce-8: {steps: 8, temperature: 0.95}
  mar-ce-16: {steps: 16, temperature: 0.95}
  mar-diff-2: {steps: 2, temperature: 0.95, diffusion_steps: 25, clamp: 5.0}
  mar-diff-4: &mar {steps: 4, temperature: 0.95, diffusion_steps: 25, clamp: 5.0}
  mar-diff-8: {<<: *mar, steps: 8}
  mar-diff-16: {<<: *mar, steps: 16}
  mar-diff-4-d5: {<<: *mar, diffusion_steps: 5}
  mar-diff-4-d10: {<<: *mar, diffusion_steps: 10}
  mar-diff-4-d50: {<<: *mar, diffusion_steps: 50}
  mar-diff-4-d100: {<<: *mar, diffusion_steps: 100}
  mar-diff-4-d250: {<<: *mar, diffusion_steps: 250}
  mar-diff-4-cfg: &guided {<<: *mar, temperature: 1.0, guidance: 2.0}
  mar-diff-4-cfg-d5: {<<: *guided, diffusion_steps: 5}
  mar-diff-4-cfg-d10: {<<: *guided, diffusion_steps: 10}
  mar-diff-4-cfg-d50: {<<: *guided, diffusion_steps: 50}
  mar-diff-4-cfg-d100: {<<: *guided, diffusion_steps: 100}
  mar-diff-4-t0.90: {<<: *mar, temperature: 0.9}
  mar-diff-4-t1.00: {<<: *mar, temperature: 1.0}
  mar-diff-4-t1.05: {<<: *mar, temperature: 1.05}
  mar-diff-4-g2-t0.90: {<<: *mar, guidance: 2.0, temperature: 0.9}
  mar-diff-4-g2-t0.95: {<<: *mar, guidance: 2.0}
  mar-diff-4-g2-t1.05: {<<: *mar, guidance: 2.0, temperature: 1.05}
  mar-diff-4-g3-t0.90: {<<: *mar, guidance: 3.0, temperature: 0.9}
  mar-diff-4-g3-t0.95: {<<: *mar, guidance: 3.0}
  mar-diff-4-g3-t1.00: {<<: *mar, guidance: 3.0, temperature: 1.0}
  mar-diff-4-g3-t1.05: {<<: *mar, guidance: 3.0, temperature: 1.05}
  dit-10: {steps: 1, diffusion_steps: 10}
  dit-25: {steps: 1, diffusion_steps: 25}
  dit-50: {steps: 1, diffusion_steps: 50}
  dit-100: {steps: 1, diffusion_steps: 100}
variants:
  ar-raster-crossent: [ar-ce, ar-ce-best, ar-ce-cfg-best]
  ar-raster-diffloss: [ar-diff, ar-diff-best, ar-diff-cfg-best]
  ar-random-crossent: [ar-ce-best, ar-ce-cfg-best]
  ar-random-diffloss: [ar-diff-best, ar-diff-cfg-best]
  mar-crossent:
    [mar-ce-2, mar-ce-4, mar-ce-8, mar-ce-16, mar-ce-16-best, mar-ce-4-best, mar-ce-16-cfg-best, mar-ce-4-cfg-best]
  mar-diffloss:
    - mar-diff-2
    - mar-diff-4
    - mar-diff-8
    - mar-diff-16
    - mar-diff-4-d5
    - mar-diff-4-d10
    - mar-diff-4-d50
    - mar-diff-4-d100
    - mar-diff-4-d250
    - mar-diff-4-cfg-d5
    - mar-diff-4-cfg-d10
    - mar-diff-4-cfg-d50
    - mar-diff-4-cfg-d100
    - mar-diff-4-t0.90
    - mar-diff-4-t1.00
    - mar-diff-4-t1.05
    - mar-diff-4-g2-t0.90
    - mar-diff-4-g2-t0.95
    - mar-diff-4-g2-t1.05
    - mar-diff-4-g3-t0.90
    - mar-diff-4-g3-t0.95
    - mar-diff-4-g3-t1.00
    - mar-diff-4-g3-t1.05
    - mar-diff-4-cfg
    - mar-diff-4-seed1
    - mar-diff-4-seed2
    - mar-diff-4-seed3
    - mar-diff-16-best
    - mar-diff-4-best
    - mar-diff-16-cfg-best
    - mar-diff-4-cfg-best
  dit: [dit-10, dit-25, dit-50, dit-100]
tradeoff:
  - [mar-diff-2, mar-diff-4, mar-diff-8, mar-diff-16]
  - [mar-ce-2, mar-ce-4, mar-ce-8, mar-ce-16]
  - [ar-ce]
  - [ar-diff]
  - [dit-10, dit-25, dit-50, dit-100]
diffusion_steps:
  - [mar-diff-4-d5, mar-diff-4-d10, mar-diff-4, mar-diff-4-d50, mar-diff-4-d100, mar-diff-4-d250]
  - [mar-diff-4-cfg-d5, mar-diff-4-cfg-d10, mar-diff-4-cfg, mar-diff-4-cfg-d50, mar-diff-4-cfg-d100]
temperature:
  - [mar-diff-4-t0.90, mar-diff-4, mar-diff-4-t1.00, mar-diff-4-t1.05]
  - [mar-diff-4-g2-t0.90, mar-diff-4-g2-t0.95, mar-diff-4-cfg, mar-diff-4-g2-t1.05]
  - [mar-diff-4-g3-t0.90, mar-diff-4-g3-t0.95, mar-diff-4-g3-t1.00, mar-diff-4-g3-t1.05]
"""


def curve(vary: Any, name: Any = "mar-t{temperature:.2f}", base: Any = "mar", **more: Any) -> dict[str, Any]:
    return {"label": "MAR", "variant": "mar", "base": base, "vary": vary, "name": name, **more}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        resolve(values, "a.yaml")
    return str(caught.value)


def test_digits_says_what_it_would_say_at_length() -> None:
    path = Path("config/digits.yaml")
    values, explicit = read(path), yaml.safe_load(DIGITS)
    values["sampling"] |= explicit["sampling"]
    for name, settings in explicit["variants"].items():
        values["variants"][name]["sampling"] = settings
    for figure in ("tradeoff", "diffusion_steps", "temperature"):
        values[figure] = [
            {"label": short["label"], "variant": short["variant"], "sampling": settings}
            for short, settings in zip(values[figure], explicit[figure], strict=True)
        ]
    assert resolve(values, path) == load(path)


def test_the_settings_of_imagenet_have_their_names() -> None:
    study = load("config/imagenet256.yaml")
    around = ["mar-diff-64-best", "mar-diff-64-cfg-best", "mar-diff-64", "mar-diff-64-cfg"]
    steps = [f"d{n}{guided}" for guided in ("", "-cfg") for n in (10, 25, 50, 250, 500, 1000)]
    temperatures = ["t0.90", "t1.00", "t1.05", "t0.90-g2", "t0.95-g2", "t1.00-g2", "t1.05-g2"]
    temperatures += ["t0.90-g3", "t0.95-g3", "t1.05-g3", "t0.90-g4", "t0.95-g4", "t1.00-g4", "t1.05-g4"]
    tradeoff = [f"mar-diff-{n}-cfg" for n in (8, 16, 32, 128)]
    assert study.variants["mar-default"].sampling == (*around, *steps, *temperatures, *tradeoff)
    assert study.temperature[2].sampling == ("t0.90-g3", "t0.95-g3", "mar-diff-64-cfg", "t1.05-g3")
    assert study.sampling["t0.90-g3"] == study.sampling["mar-diff-64"].at(3.0, 0.9)


class TestVary:
    @pytest.fixture
    def varied(self, values: dict[str, Any]) -> dict[str, Any]:
        values["temperature"] = [curve({"temperature": [0.9, 1.0, 1.1]})]
        values["variants"]["mar"]["sampling"] = ["mar", "temperature"]
        return values

    def test_a_setting_is_made_for_each_point_that_has_none(self, varied: dict[str, Any]) -> None:
        before = copy.deepcopy(varied)
        study = resolve(varied, "a.yaml")
        assert varied == before
        # temperature 1 is the default, and so `mar` itself
        assert study.temperature[0].sampling == ("mar-t0.90", "mar", "mar-t1.10")
        assert list(study.sampling) == ["ar", "mar", "mar-t0.90", "mar-t1.10"]
        for name, value in {"mar-t0.90": 0.9, "mar-t1.10": 1.1}.items():
            assert study.sampling[name] == study.sampling["mar"].model_copy(update={"temperature": value})

    def test_the_resolved_study_has_names_alone(self, varied: dict[str, Any], tmp_path: Path) -> None:
        path = write_resolved(resolve(varied, "a.yaml"), tmp_path)
        assert json.loads(path.read_text())["temperature"] == [
            {"label": "MAR", "variant": "mar", "sampling": ["mar-t0.90", "mar", "mar-t1.10"]}
        ]
        assert load(path) == resolve(varied, "a.yaml")

    def test_one_value_is_shared_by_all_points(self, varied: dict[str, Any]) -> None:
        vary = {"guidance": 2, "temperature": [0.9, 1]}
        varied["temperature"] += [curve(vary, "g{guidance:.0f}-t{temperature}")]
        study = resolve(varied, "a.yaml")
        # the name has the value as the study holds it: 1.0
        assert study.temperature[1].sampling == ("g2-t0.9", "g2-t1.0")
        assert study.sampling["g2-t0.9"] == study.sampling["mar"].at(2.0, 0.9)

    @pytest.mark.parametrize("order", [["z", "mar-t0.90", "b"], ["b", "mar-t0.90", "z"]])
    def test_of_equal_settings_that_of_the_template_comes_first(self, varied: dict[str, Any], order: list[str]) -> None:
        varied["sampling"] |= {name: {"steps": 8, "diffusion_steps": 4, "temperature": 0.9} for name in order}
        assert resolve(varied, "a.yaml").temperature[0].sampling == ("mar-t0.90", "mar", "mar-t1.10")

    @pytest.mark.parametrize("order", [["z", "b"], ["b", "z"]])
    def test_then_that_of_the_base_then_the_first_of_the_alphabet(
        self, varied: dict[str, Any], order: list[str]
    ) -> None:
        same = {"a-copy": {"steps": 8, "diffusion_steps": 4}}
        hot = {name: {"steps": 8, "diffusion_steps": 4, "temperature": 0.9} for name in order}
        varied["sampling"] = same | hot | varied["sampling"]
        assert resolve(varied, "a.yaml").temperature[0].sampling == ("b", "mar", "mar-t1.10")

    def test_two_curves_share_a_point(self, varied: dict[str, Any]) -> None:
        varied["temperature"] += [curve({"temperature": [1.1, 1.2]}, "hot{temperature}")]
        study = resolve(varied, "a.yaml")
        assert study.temperature[1].sampling == ("mar-t1.10", "hot1.2")
        assert study.variants["mar"].sampling == ("mar", "mar-t0.90", "mar-t1.10", "hot1.2")

    def test_a_variant_that_does_not_draw_the_points_is_refused(self, varied: dict[str, Any]) -> None:
        varied["variants"]["mar"]["sampling"] = ["mar"]
        assert refusal(varied) == "a.yaml: temperature[0]: sampling of variant mar: found 'mar-t0.90'; accepted: mar"

    @pytest.mark.parametrize(("vary", "message"), [
        ({"temprature": [1.0]}, ".vary: unknown key 'temprature' (did you mean 'temperature'?); accepted: "),
        ({"temperature": [0.9, -1.0]}, ".vary.temperature: found -1.0; accepted: at least 0.001"),
        ({"temperature": 0.9}, ".vary: found {'temperature': 0.9}; accepted: a list of values for one key"),
        ({"temperature": []}, ".vary: found {'temperature': []}; accepted: a list of values for one key"),
        ({"steps": [4], "guidance": [2.0]}, "accepted: a list of values for one key of a setting, and one value for"),
        (None, ".vary: found None; accepted: a list of values for one key"),
        ([0.9], ".vary: found [0.9]; accepted: a list of values for one key"),
        ({"temperature": [0.9, 0.9]}, ".name: 'mar-t{temperature:.2f}' calls two points 'mar-t0.90'; accepted: a name"),
        ({"sweep": {"samples": 50}, "steps": [4]}, " has a sweep, which chooses guidance and temperature itself; acc"),
    ])  # fmt: skip
    def test_values_that_are_refused(self, varied: dict[str, Any], vary: Any, message: str) -> None:
        varied["temperature"] = [curve(vary)]
        found = refusal(varied)
        assert found.startswith("a.yaml: temperature[0]") and message in found

    @pytest.mark.parametrize(("name", "message"), [
        ("mar-t", "'mar-t' calls two points 'mar-t'; accepted: a name for each point"),
        ("mar-{t}", "'t' in 'mar-{t}'; accepted: a template as 'mar-{temperature}'"),
        ("mar-{temperature:d}", "in 'mar-{temperature:d}'; accepted: a template as 'mar-{temperature}'"),
        ("mar-{temperature", "in 'mar-{temperature'; accepted: a template as 'mar-{temperature}'"),
        (3, "found 3; accepted: a template as 'mar-{temperature}'"),
        ("a{temperature:.0s}r", "in 'a{temperature:.0s}r'; accepted: a template"),
        ("mar-{temperature.x}", "in 'mar-{temperature.x}'; accepted: a template"),
    ])  # fmt: skip
    def test_templates_that_are_refused(self, varied: dict[str, Any], name: Any, message: str) -> None:
        varied["temperature"] = [curve({"temperature": [0.9, 1.1]}, name)]
        found = refusal(varied)
        assert found.startswith("a.yaml: temperature[0].name: ") and message in found

    def test_the_name_of_another_setting_is_refused(self, varied: dict[str, Any]) -> None:
        varied["temperature"] = [curve({"temperature": [0.9]}, "ar")]
        expected = "found 'ar', in sampling another setting; accepted: an equal setting, or another name"
        assert refusal(varied) == f"a.yaml: temperature[0].name: {expected}"

    def test_what_is_no_name_is_refused(self, varied: dict[str, Any]) -> None:
        varied["temperature"] = [curve({"temperature": [0.9]}, "a b")]
        assert "a.yaml: sampling.a b: found 'a b'; accepted: letters, digits and _ . + -" in refusal(varied)

    @pytest.mark.parametrize(("base", "message"), [
        ("mra", "temperature[0].base: found 'mra'; accepted: ar, mar, swept, odd"),
        (["mar"], "temperature[0].base: found \"['mar']\"; accepted: ar, mar, swept, odd"),
        ("swept", "temperature[0]: sampling.swept with vary {'steps': [4]} has a sweep, which chooses"),
        ("odd", "sampling.odd: unknown key 'step' (did you mean 'steps'?); accepted: "),
    ])  # fmt: skip
    def test_bases_that_are_refused(self, varied: dict[str, Any], base: Any, message: str) -> None:
        varied["sampling"]["swept"] = {"steps": 8, "diffusion_steps": 4, "sweep": {"samples": 50}}
        varied["sampling"]["odd"] = {"step": 8}
        varied["temperature"] = [curve({"steps": [4]}, "mar-{steps}", base)]
        assert refusal(varied).startswith(f"a.yaml: {message}")

    @pytest.mark.parametrize(("keys", "found"), [
        ({"sampling": ["mar"]}, "label, variant, base, vary, name, sampling"),
        ({"vary": ...}, "label, variant, base, name"),
        ({"label": ..., "vary": ..., "name": ...}, "variant, base"),
        ({"vary": ..., "varry": {"steps": [4]}}, "label, variant, base, name, varry"),
    ])  # fmt: skip
    def test_a_curve_has_settings_or_makes_them(self, varied: dict[str, Any], keys: dict[str, Any], found: str) -> None:
        changed = curve({"temperature": [0.9]}) | keys
        varied["temperature"] = [{key: value for key, value in changed.items() if value is not ...}]
        accepted = "label, variant and sampling, or label, variant, base, vary, name"
        assert refusal(varied) == f"a.yaml: temperature[0]: found {found}; accepted: {accepted}"

    @pytest.mark.parametrize(("key", "value", "message"), [
        ("sampling", ["mar"], "a.yaml: temperature[0].base: found 'mar'; accepted: none"),
        ("temperature", {"label": "MAR"}, "a.yaml: temperature: "),
        ("temperature", ["mar"], "a.yaml: temperature[0]: "),
        ("variants", ["mar"], "a.yaml: variants: "),
        ("tables", ["mar"], "a.yaml: tables: "),
    ])  # fmt: skip
    def test_a_section_of_another_type_is_refused(
        self, varied: dict[str, Any], key: str, value: Any, message: str
    ) -> None:
        assert message in refusal(varied | {key: value})


class TestLists:
    """Figures and tables in the list of a variant."""

    @pytest.fixture
    def drawn(self, values: dict[str, Any]) -> dict[str, Any]:
        for name in ("b", "c", "d", "e"):
            values["sampling"][name] = {"steps": 8, "diffusion_steps": 4, "guidance": 1.0 + ord(name)}
        values["tables"]["table1"]["rows"] = [
            {"paper": "mar-default-diffloss", "variant": "mar", "without": "mar", "guided": "d"},
            {"paper": "adm"},
            {"paper": "mar-one-diffloss", "variant": "mar", "without": "b", "guided": "e"},
            {"paper": "ar-raster-crossent", "variant": "ar", "without": "ar"},
        ]
        values["tradeoff"] = [
            {"label": "MAR", "variant": "mar", "sampling": ["c", "mar"]},
            {"label": "again", "variant": "mar", "sampling": ["mar", "b"]},
            {"label": "AR", "variant": "ar", "sampling": ["ar"]},
        ]
        values["fast"] = {"variant": "mar", "default": "mar", "modes": ["e", "d"]}
        return values

    @pytest.mark.parametrize(("listed", "settings"), [
        (["tradeoff", "table1"], ["c", "mar", "b", "d", "e"]),
        (["table1", "tradeoff"], ["mar", "b", "d", "e", "c"]),      # the guided settings after those without
        (["mar", "tradeoff", "b", "fast"], ["mar", "c", "b", "e", "d"]),      # what the list names has its place
        (["fast", "c", "table1"], ["mar", "e", "d", "c", "b"]),
    ])  # fmt: skip
    def test_they_stand_for_the_settings_that_they_show(
        self, drawn: dict[str, Any], listed: list[str], settings: list[str]
    ) -> None:
        drawn["variants"]["mar"]["sampling"], drawn["variants"]["ar"]["sampling"] = listed, ["table1"]
        before = copy.deepcopy(drawn)
        study = resolve(drawn, "a.yaml")
        assert study.variants["mar"].sampling == tuple(settings)
        assert study.variants["ar"].sampling == ("ar",)
        assert drawn == before

    @pytest.mark.parametrize(("listed", "message"), [
        (["table2"], "variants.mar.sampling: found 'table2', which shows no setting of the variant; "
                     "accepted, each once: settings, tradeoff, table1, fast"),
        (["table1", "table1"], "variants.mar.sampling: found 'table1' twice; accepted, each once: settings, tradeoff"),
        (["tabel1"], "variants.mar.sampling: found 'tabel1'; accepted: ar, mar, b, c, d, e, or a figure or table"),
        # a figure that the study does not have
        (["temperature"], "variants.mar.sampling: found 'temperature'; accepted: ar, mar"),
        (["mar", "mar", "table1"], "each entry once is accepted"),
        ([["table1"]], "variants.mar.sampling[0]: "),
        ("table1", "variants.mar.sampling: "),
    ])  # fmt: skip
    def test_refused(self, drawn: dict[str, Any], listed: Any, message: str) -> None:
        drawn["tables"]["table2"] = {"paper": "mar_table2", "title": "", "rows": [{"paper": "kl16"}]}
        drawn["variants"]["mar"]["sampling"] = listed
        assert message in refusal(drawn)

    @pytest.mark.parametrize("name", ["table1", "tradeoff", "fast"])
    def test_a_setting_has_no_name_of_a_figure_or_table(self, drawn: dict[str, Any], name: str) -> None:
        drawn["sampling"][name] = {"steps": 4}
        found = f"a.yaml: sampling: found {name}, which is a figure or table of the study too"
        assert refusal(drawn).startswith(found)

    def test_a_mistake_in_a_figure_is_told_as_one(self, drawn: dict[str, Any]) -> None:
        drawn["variants"]["mar"]["sampling"] = ["tradeoff"]
        del drawn["tradeoff"][0]["label"]
        assert refusal(drawn) == "a.yaml: tradeoff[0].label: is missing"

    def test_variants_of_a_matrix_take_them(self, drawn: dict[str, Any]) -> None:
        factors = {"tokenizer": "kl", "order": ["random"], "backbone": ["masked"], "head": "diffloss"}
        drawn["matrix"] = {"name": "{order}-{backbone}", "recipe": "short", **factors, "sampling": ["c", "table1"]}
        drawn["tables"]["table1"]["rows"][0]["variant"] = "random-masked"
        drawn["variants"]["mar"]["sampling"] = ["mar", "table1", "tradeoff", "fast"]
        study = resolve(drawn, "a.yaml")
        assert study.variants["random-masked"].sampling == ("c", "mar", "d")


class TestExtends:
    """What a file says in short is written out before another file changes it."""

    CURVES = (curve({"temperature": [0.9, 1.0]}), curve({"guidance": 2.0, "temperature": [0.9]}, "cold"))

    def study(self, folder: Path, values: dict[str, Any], changes: dict[str, Any]) -> Study:
        base = values | {"temperature": list(self.CURVES)}
        base["variants"]["mar"]["sampling"] = ["table1", "temperature"]
        (folder / "base.yaml").write_text(yaml.safe_dump(base))
        (folder / "a.yaml").write_text(yaml.safe_dump({"extends": "base.yaml", "study": "a", **changes}))
        return load(folder / "a.yaml")

    def test_a_setting_that_a_curve_made_is_changed_key_by_key(self, tmp_path: Path, values: dict[str, Any]) -> None:
        study = self.study(tmp_path, values, {"sampling": {"mar-t0.90": {"diffusion_steps": 2}, "mar": {"clamp": 5.0}}})
        changed = study.sampling["mar-t0.90"]
        assert (changed.steps, changed.temperature, changed.diffusion_steps, changed.clamp) == (8, 0.9, 2, None)
        # the curve shows what it showed
        assert study.temperature[0].sampling == ("mar-t0.90", "mar")
        assert study.sampling["cold"].clamp is None and study.sampling["mar"].clamp == 5.0

    def test_settings_and_lists_stay_without_their_figure(self, tmp_path: Path, values: dict[str, Any]) -> None:
        study = self.study(tmp_path, values, {"temperature": None, "tables": {"table1": None}})
        assert study.temperature == () and study.tables == {}
        assert study.variants["mar"].sampling == ("mar", "mar-t0.90", "cold")

    def test_a_setting_that_a_curve_made_is_taken_away(self, tmp_path: Path, values: dict[str, Any]) -> None:
        changes: dict[str, Any] = {"temperature": None, "variants": {"mar": {"sampling": ["table1"]}}}
        study = self.study(tmp_path, values, {**changes, "sampling": {"cold": None}})
        assert set(study.sampling) == {"ar", "mar", "mar-t0.90"}
        assert study.variants["mar"].sampling == ("mar",)

    def test_other_curves_find_the_settings_of_the_base(self, tmp_path: Path, values: dict[str, Any]) -> None:
        curves = [curve({"temperature": [0.8, 0.9]}, "t{temperature}"), curve({"guidance": [2.0]}, "g", "mar-t0.90")]
        changes = {"temperature": curves, "variants": {"mar": {"sampling": ["temperature", "mar"]}}}
        study = self.study(tmp_path, values, changes)
        assert [c.sampling for c in study.temperature] == [("t0.8", "mar-t0.90"), ("cold",)]
        assert study.variants["mar"].sampling == ("t0.8", "mar-t0.90", "cold", "mar")

    def test_a_name_of_the_base_stands_for_its_setting(self, tmp_path: Path, values: dict[str, Any]) -> None:
        """A base that is changed does not change what was made of it: the curve would call two settings alike."""
        changes = {"temperature": list(self.CURVES), "sampling": {"mar": {"diffusion_steps": 2}}}
        with pytest.raises(StudyError, match=r"temperature\[0\]\.name: found 'mar-t0.90', in sampling another setting"):
            self.study(tmp_path, values, changes)
        away = {"mar": {"diffusion_steps": 2}, "mar-t0.90": None, "cold": None}
        study = self.study(tmp_path, values, changes | {"sampling": away})
        assert study.sampling["mar-t0.90"].diffusion_steps == study.sampling["cold"].diffusion_steps == 2

    def test_the_file_with_the_mistake_is_named(self, tmp_path: Path, values: dict[str, Any]) -> None:
        values["tradeoff"] = [curve({"steps": [4]}, base="no")]
        with pytest.raises(StudyError) as caught:
            self.study(tmp_path, values, {})
        assert str(caught.value) == f"{tmp_path}/base.yaml:98: tradeoff[0].base: found 'no'; accepted: ar, mar"
