"""Study files as pydantic models: what a study may say, and what is refused when it is read.

A study is one YAML file. It names the data set, tokenizers, backbones, heads, recipes and sampling settings
(`mar/study/parts.py`), and then *variants*, each of which picks one of each by name: the factors of the paper are
independent in a study as they are in the code. `mar/study/reading.py` reads the file; the JSON schema in
`workflow/schemas/` is generated from these classes.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field, SerializeAsAny, model_validator

from mar.study import layout
from mar.study.compatibility import check_sampling, known
from mar.study.kinds import Section
from mar.study.limits import PAIRED
from mar.study.mistakes import Mistake, Mistakes, MistakesError, listed, too_few
from mar.study.parts import Backbone, Data, Head, Name, Order, Recipe, Sampling, Seed, Text, Tokenizer
from mar.study.sections import (
    Budget,
    Classifier,
    Curve,
    Gate,
    Given,
    Laws,
    Learning,
    Memory,
    Metrics,
    Modes,
    OwnClaim,
    Rejecter,
    Resources,
    Speed,
    Table,
    TableRow,
    Tasks,
)

FACTORS = ("tokenizer", "order", "backbone", "head")  # keys of a variant that `matrix` crosses


class Variant(Section):
    """One choice of each factor of the paper, by name."""

    tokenizer: Name
    order: SerializeAsAny[Order] = Field(
        description="scales: from coarse to fine, VAR only; joint: all tokens at once, DiT only"
    )
    backbone: Name
    head: Name
    recipe: Name
    sampling: tuple[Name, ...] = Field(
        description="sampling settings to draw samples with, for every seed; in a file also figures and tables, "
        "for the settings that they show of the variant"
    )
    seeds: tuple[Seed, ...] = Field(
        (0,), max_length=1000, description="training seeds; an empty list declares the variant, untrained"
    )
    pretrained: bool = Field(False, description="weights are imported (`mar import`), not trained")
    weights: Name | None = Field(None, description="pretrained: name of the import; default: the variant's")
    resources: Resources | None = Field(None, description="nodes, GPUs and hours of the training on a cluster")

    @model_validator(mode="after")
    def _check(self) -> Variant:
        for key in ("sampling", "seeds"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key} {list(values)}: each entry once is accepted")
        if self.weights and not self.pretrained:
            raise ValueError(f"weights {self.weights}: belongs to pretrained: true")
        if self.pretrained and self.seeds not in ((), (0,)):
            raise ValueError(f"seeds {list(self.seeds)} with pretrained: true: one set of weights; accepted: [0]")
        return self


class Instance(NamedTuple):
    """A tokenizer on disk.

    Attributes:
        section: its section in `tokenizers`.
        config: that section.
        seed: what its training is seeded with.
    """

    section: str
    config: Tokenizer
    seed: int


class Study(Section):
    """A whole study: the root of a study file."""

    study: Name
    title: Text = ""
    seed: Seed = 0
    data: SerializeAsAny[Data]
    tokenizers: dict[Name, SerializeAsAny[Tokenizer]]
    backbones: dict[Name, SerializeAsAny[Backbone]]
    heads: dict[Name, SerializeAsAny[Head]]
    recipes: dict[Name, Recipe]
    sampling: dict[Name, Sampling]
    variants: dict[Name, Variant]
    classifier: Classifier | None = Field(None, description="needed where metrics.extractors has `classifier`")
    rejecter: Rejecter | None = Field(None, description="network by which settings with `reject` accept images")
    metrics: Metrics
    speed: Speed
    learning: Learning | None = Field(None, description="samples and FID along the trainings, beside the losses")
    laws: Laws | None = Field(None, description="models of VAR of growing size, to which power laws are fitted")
    tasks: Tasks | None = Field(None, description="in-painting, out-painting and class change of held-out images")
    given: dict[Name, Given] = Field({}, description="sample sets that others drew, judged beside the study's own")
    tables: dict[Name, Table] = Field({}, description="tables of the paper and our rows for them")
    claims: tuple[OwnClaim, ...] = Field((), description="claims of the study's own, judged like the paper's")
    tradeoff: tuple[Curve, ...] = Field((), description="curves of figures/tradeoff (Figure 6)")
    diffusion_steps: tuple[Curve, ...] = Field((), description="curves of figures/diffusion_steps (Figure 4)")
    evaluations: tuple[Curve, ...] = Field(
        (), description="curves of figures/evaluations: FID over the evaluations of the head's network a token"
    )
    temperature: tuple[Curve, ...] = Field((), description="curves of figures/temperature (Figure 5)")
    fast: Modes | None = Field(None, description="fast sampling modes to accept or refuse: the table `fast`")
    shipped: bool = Field(True, description="take finished tokenizers and classifiers of equal recipe that ship")
    reuse: Name | None = Field(None, description="study whose finished files of equal recipe are taken over")
    gate: Gate | None = Field(None, description="what has to hold of the tokenizers before anything is trained")
    budget: Budget | None = Field(None, description="caps on the estimate of `mar plan`")
    memory: Memory = Field(Memory(), description="GPU that the study is for, and images at once where it is short")

    @property
    def instances(self) -> dict[str, Instance]:
        """The tokenizers on disk, by the names of their folders: one of each section, or one of each training seed.

        Of a section with `per_seed` these are the seeds of the variants that use it.
        """
        found: dict[str, Instance] = {}
        for name, config in self.tokenizers.items():
            if not config.per_seed:
                found[name] = Instance(name, config, self.seed)
                continue
            seeds = {seed for variant in self.variants.values() if variant.tokenizer == name for seed in variant.seeds}
            for seed in sorted(seeds):
                found[layout.of_seed(name, seed)] = Instance(name, config, self.seed + seed)
        return found

    def tokenizer_of(self, variant: str, seed: int) -> str:
        """Name on disk of the tokenizer of a variant's training with one seed."""
        name = self.variants[variant].tokenizer
        return layout.of_seed(name, seed) if self.tokenizers[name].per_seed else name

    def tokens(self, tokenizer: str) -> int:
        """Number of tokens of one image under a section of `tokenizers`."""
        tok = self.tokenizers[tokenizer]
        if tok.sides:
            return sum(side**2 for side in tok.sides)
        return (self.data.image_size // (tok.stride * tok.group)) ** 2

    def shown_setting(self, variant: str) -> str:
        """The setting whose samples stand for a variant: its last guided one, else its last.

        One that rejects images stands for it only where all do. A variant that names none has all of the study.
        """
        named = self.variants[variant].sampling or tuple(self.sampling)
        settings = [s for s in named if not self.sampling[s].reject] or named
        guided = [s for s in settings if self.sampling[s].points[-1].guidance > 1]
        return (guided or list(settings))[-1]

    @model_validator(mode="after")
    def _check(self) -> Study:
        mistakes = Mistakes()
        for section in ("tokenizers", "backbones", "heads", "recipes", "sampling", "variants", "given", "tables"):
            folded: dict[str, str] = {}
            for name in getattr(self, section):
                with mistakes.at(section, name):
                    if (other := folded.setdefault(name.lower(), name)) != name:
                        raise ValueError(
                            f"{section}: {other!r} and {name!r} differ in case only; accepted: other names"
                        )
        with mistakes.at("metrics", "samples"):
            self._check_classes("metrics.samples", self.metrics.samples)
        for name, tok in self.tokenizers.items():
            with mistakes.at("tokenizers", name):
                self._check_tokenizer(name, tok)
        sound = not mistakes.found
        for name, variant in self.variants.items():
            self._check_variant(name, variant, mistakes)
            with mistakes.at("variants", name):
                if self.given and name.lower() == layout.GIVEN:
                    raise ValueError(f"variants.{name}: sets of `given` have folders of this name; accepted: another")
        if sound:
            with mistakes.at("tokenizers"):
                self._check_instances()
            with mistakes.at("data"):
                if self.data.unread:
                    self._check_without_images()
        for table_name, table in self.tables.items():
            with mistakes.at("tables", table_name):
                if table_name.lower() in ("metrics", "variance", "fast", "learning", "laws", "tasks"):
                    raise ValueError(f"tables.{table_name}: every study has a table of this name; accepted: another")
            for i, row in enumerate(table.rows):
                with mistakes.at("tables", table_name, "rows", i):
                    self._check_row(f"tables.{table_name}.rows[{i}]", row)
        for figure in ("tradeoff", "diffusion_steps", "evaluations", "temperature"):
            for i, curve in enumerate(getattr(self, figure)):
                with mistakes.at(figure, i):
                    self._check_curve(figure, i, curve)
        if self.fast:
            with mistakes.at("fast"):
                self._check_settings("fast", self.fast.variant, (self.fast.default, *self.fast.modes))
                if self.fast.default in self.fast.modes:
                    raise ValueError(f"fast.modes: {self.fast.default} is fast.default; accepted: other settings")
        for key in ("crossent", "diffloss") if self.gate else ():
            name = getattr(self.gate, key).tokenizer
            with mistakes.at("gate", key, "tokenizer"):
                if known(f"gate.{key}.tokenizer", name, self.tokenizers).ids != (key == "crossent"):
                    kind = "ids" if key == "crossent" else "continuous tokens"
                    raise ValueError(f"gate.{key}.tokenizer {name}: accepted: a tokenizer of {kind}")
        if self.learning:
            with mistakes.at("learning"):
                self._check_learning(self.learning)
        if self.laws and not mistakes.found:
            with mistakes.at("laws"):
                self._check_laws(self.laws)
        if not mistakes.found:
            self._check_rejection(mistakes)
        if self.tasks and not mistakes.found:
            with mistakes.at("tasks"):
                self._check_tasks(self.tasks)
        with mistakes.at("metrics", "extractors"):
            if self.classifier is None and "classifier" in self.metrics.extractors:
                raise ValueError("classifier: is needed by metrics.extractors, which has classifier")
        with mistakes.at("reuse"):
            if self.reuse == self.study:
                raise ValueError(f"reuse {self.reuse}: accepted: another study")
        mistakes.refuse()
        return self

    def _check_tokenizer(self, name: str, tok: Tokenizer) -> None:
        step = tok.stride * tok.group
        if self.data.image_size % step:
            raise ValueError(
                f"tokenizers.{name}: stride {tok.stride} x group {tok.group} = {step} does not divide "
                f"data.image_size {self.data.image_size}; accepted: one that does"
            )
        side = self.data.image_size // step
        if tok.sides and tok.sides[-1] != side:
            raise ValueError(
                f"tokenizers.{name}: scales {list(tok.sides)} end at {tok.sides[-1]}, and image_size "
                f"{self.data.image_size} with stride {tok.stride} has {side} x {side} latents; accepted: {side}"
            )

    def _check_row(self, where: str, row: TableRow) -> None:
        if row.variant is not None:
            self._check_settings(where, row.variant, row.sets)
            return
        for name in row.sets:
            if name not in self.given:
                accepted = f"a set of `given` ({', '.join(self.given) or 'none'}), or a variant with this setting"
                raise ValueError(f"{where}: found {name!r} without a variant; accepted: {accepted}")

    def _check_curve(self, figure: str, i: int, curve: Curve) -> None:
        self._check_settings(f"{figure}[{i}]", curve.variant, curve.sampling)
        head = self.heads.get(self.variants[curve.variant].head)
        for setting in curve.sampling if figure in ("diffusion_steps", "evaluations") else ():
            for key, said in self.sampling[setting].annealed.items():
                raise ValueError(
                    f"{figure}[{i}]: sampling.{setting} has {key} {said}, which fall over the autoregressive steps; "
                    "accepted: settings with a number, or this curve in the figure `tradeoff`"
                )
        for setting in curve.sampling if figure == "evaluations" and head else ():
            if head and head.evaluations(self.sampling[setting]) is None:
                raise ValueError(
                    f"{figure}[{i}]: variant {curve.variant} has a {head.kind} head, whose network is not evaluated "
                    "several times; accepted: a variant with kind diffusion or flow"
                )
        for setting in curve.sampling if figure == "temperature" else ():
            if self.sampling[setting].sweep:
                raise ValueError(
                    f"{figure}[{i}]: sampling.{setting} has a sweep, which chooses what this figure varies; "
                    "accepted: settings with a temperature of their own"
                )

    def _check_without_images(self) -> None:
        """Refuse what needs images of the data: only published weights are sampled, against a published reference."""
        faults = [f"variants.{name}: is trained" for name, v in self.variants.items() if v.seeds and not v.pretrained]
        for name in {v.tokenizer for v in self.variants.values() if v.seeds}:
            tok = self.tokenizers[name]
            if tok.trained:
                faults.append(f"tokenizers.{name}: is trained")
            elif not tok.ids and not tok.unscaled and tok.scale is None:
                faults.append(f"tokenizers.{name}.scale: is measured on the images unless it is said")
        judged = any(v.sampling for v in self.variants.values() if v.seeds)
        if self.metrics.extractors != ("inception",) or (judged and self.metrics.reference is None):
            faults.append("metrics: accepted: extractors [inception] with a reference")
        faults += [f"sampling.{name}: has a sweep" for name, setting in self.sampling.items() if setting.sweep]
        if faults:
            raise ValueError(f"data.kind none has no images; found {'; '.join(faults)}")

    def _check_instances(self) -> None:
        for name, tok in self.tokenizers.items():
            seeds = [seed for v in self.variants.values() if v.tokenizer == name for seed in v.seeds]
            for folder in (layout.of_seed(name, seed) for seed in seeds if tok.per_seed):
                if other := next((n for n in self.tokenizers if n.lower() == folder.lower()), None):
                    raise ValueError(
                        f"tokenizers.{other}: tokenizers.{name} has per_seed, whose training {folder} has this name; "
                        "accepted: another name"
                    )

    def _check_learning(self, learning: Learning) -> None:
        self._check_classes("learning.samples", learning.samples)
        if learning.samples % self.metrics.chunk:
            raise ValueError(
                f"learning.samples {learning.samples} is not a multiple of metrics.chunk {self.metrics.chunk}; "
                "accepted: one"
            )
        for name, setting in learning.setting.items():
            self._check_settings("learning.setting", name, (setting,))
        if not any(self.recipes[v.recipe].points for v in self.variants.values()):
            raise ValueError("learning: no recipe of a variant has evaluate_at; accepted: shares of the training there")

    def _check_laws(self, laws: Laws) -> None:
        sizes: dict[tuple[int, int], str] = {}
        for name in laws.variants:
            variant = known("laws.variants", name, self.variants)
            faults = {
                f"order {variant.order.kind}": not variant.order.by_scale,
                "published weights": variant.pretrained,
                "no seeds": not variant.seeds,
                f"recipe {variant.recipe} without evaluate_at": not self.recipes[variant.recipe].points,
            }
            if found := [fault for fault, is_so in faults.items() if is_so]:
                raise ValueError(
                    f"laws.variants: {name}: found {', '.join(found)}; accepted: trained with order scales, by a "
                    "recipe with evaluate_at"
                )
            backbone = self.backbones[variant.backbone]
            if (other := sizes.setdefault((backbone.width, backbone.depth), name)) != name:
                raise ValueError(f"laws.variants: {other} and {name} have one size; accepted: each another")
        if len(tokenizers := {self.variants[name].tokenizer for name in laws.variants}) > 1:
            raise ValueError(f"laws.variants: tokenizers {', '.join(sorted(tokenizers))}; accepted: one")

    def _check_rejection(self, mistakes: Mistakes) -> None:
        rejecting = {s: name for name, v in self.variants.items() for s in v.sampling if self.sampling[s].reject}
        for setting, name in rejecting.items():
            with mistakes.at("sampling", setting, "reject"):
                if self.rejecter is None:
                    raise ValueError(
                        f"sampling.{setting}.reject: variants.{name} draws with it, and the study has no rejecter; "
                        "accepted: a section `rejecter`"
                    )
        if rejecting and self.rejecter:
            with mistakes.at("rejecter"):
                classes = 1000 if self.data.totals == "imagenet" else self.data.classes
                if self.rejecter.weights and classes != 1000:
                    raise ValueError(
                        f"rejecter.weights {self.rejecter.weights}: knows ImageNet's 1,000 classes; found "
                        f"{classes or 'a number that the study does not know'}; accepted: images, for one of its own"
                    )
                if self.data.unread and not self.rejecter.weights:
                    raise ValueError("rejecter.images: data.kind none has no images; accepted: weights")
        along = self.learning.setting if self.learning else {}
        first = {n: v.sampling[0] for n, v in self.variants.items() if v.sampling and self.recipes[v.recipe].points}
        drawn = {"learning.setting": first | along if self.learning else {}}
        if self.laws:  # pictures along the training
            drawn["laws.variants"] = {n: self.shown_setting(n) for n in self.laws.variants if self.variants[n].sampling}
        for key, settings in (drawn | {"tasks.models": self.tasks.models if self.tasks else {}}).items():
            with mistakes.at(*key.split(".")):
                if found := next((s for s in settings.values() if s in rejecting), None):
                    raise ValueError(f"{key}: sampling.{found} has reject; accepted: a setting that draws once")

    def _check_tasks(self, tasks: Tasks) -> None:
        self._check_classes("tasks.samples", tasks.samples, PAIRED)
        if tasks.samples % self.metrics.chunk:
            raise ValueError(
                f"tasks.samples {tasks.samples} is not a multiple of metrics.chunk {self.metrics.chunk}; accepted: one"
            )
        if self.data.unread:
            raise ValueError("tasks: data.kind none has no images; accepted: data with held-out images")
        for name, setting in tasks.models.items():
            self._check_settings("tasks.models", name, (setting,))
            variant, where = self.variants[name], f"tasks.models.{name}"
            sampling, size = self.sampling[setting], self.data.image_size
            faults = {
                "order joint, which draws all tokens together": variant.order.joint,
                "no seeds": not variant.seeds,
                f"sampling.{setting} with token_cache or condition_cache": bool(
                    sampling.token_cache or sampling.condition_cache
                ),
                f"recipe {variant.recipe} without label_drop, which knows no null condition": not variant.pretrained
                and self.recipes[variant.recipe].label_drop == 0.0,
            }
            if found := [fault for fault, is_so in faults.items() if is_so]:
                raise ValueError(f"{where}: found {', '.join(found)}; accepted: a variant without this")
            tok = self.tokenizers[variant.tokenizer]
            side = tok.sides[-1] if tok.sides else size // (tok.stride * tok.group)
            for outside in (False, True):
                if not 0 < tasks.drawn(side, size, outside) < side**2:
                    kept = "out-painting" if outside else "in-painting"
                    raise ValueError(
                        f"{where}: of {side} x {side} tokens of tokenizer {variant.tokenizer}, {kept} with box "
                        f"{list(tasks.box)} keeps or draws none, as masks grow by one token; accepted: another box, or "
                        "more tokens"
                    )

    def _check_classes(self, where: str, samples: int, each: int = 1) -> None:
        if self.data.classes and samples < each * self.data.classes:
            raise ValueError(f"{where} {samples}: {too_few(self.data.classes, each)}")

    def _check_settings(self, where: str, variant: str, settings: tuple[str, ...]) -> None:
        known(where + ".variant", variant, self.variants)
        for setting in settings:
            known(f"{where}: sampling of variant {variant}", setting, self.variants[variant].sampling)

    def _check_variant(self, name: str, variant: Variant, mistakes: Mistakes) -> None:
        """Check a variant, and each of its settings if the parts of the variant fit together."""
        before = len(mistakes.found)
        for key in ("tokenizer", "backbone", "head", "recipe"):
            with mistakes.at("variants", name, key):
                known(f"variants.{name}.{key}", getattr(variant, key), getattr(self, f"{key}s"))
        if len(mistakes.found) == before:
            with mistakes.at("variants", name):
                self._check_parts(name, variant)
        for setting in variant.sampling if len(mistakes.found) == before else ():
            with mistakes.at(*(("sampling", setting) if setting in self.sampling else ("variants", name, "sampling"))):
                self._check_setting(name, variant, setting)

    def _check_parts(self, name: str, variant: Variant) -> None:
        where, tok = f"variants.{name}", self.tokenizers[variant.tokenizer]
        backbone, head = self.backbones[variant.backbone], self.heads[variant.head]
        if tok.ids != head.ids:
            raise ValueError(
                f"{where}: head {variant.head} ({head.kind}) on tokenizer {variant.tokenizer} ({tok.kind}): "
                f"{head.kind} takes {'ids' if head.ids else 'continuous tokens'}; accepted: "
                + ("kind vq, not continuous, or msvq" if head.ids else "kl, pixels, consistency, continuous vq")
            )
        joint = {f"backbone {variant.backbone} dit": backbone.joint}
        joint |= {f"head {variant.head} joint": head.joint, "order joint": variant.order.joint}
        if len(set(joint.values())) > 1:
            said = ", ".join(f"{what}: {'yes' if value else 'no'}" for what, value in joint.items())
            raise ValueError(f"{where}: DiT is backbone, head and order together; found {said}; accepted: all or none")
        scales = {f"tokenizer {variant.tokenizer} msvq": bool(tok.sides), "order scales": variant.order.by_scale}
        scales |= {f"backbone {variant.backbone} scales": backbone.by_scale}
        if len(set(scales.values())) > 1:
            said = ", ".join(f"{what}: {'yes' if value else 'no'}" for what, value in scales.items())
            raise ValueError(
                f"{where}: VAR is tokenizer, order and backbone together; found {said}; accepted: all or none"
            )
        recipe, resources = self.recipes[variant.recipe], variant.resources
        micro_batches = recipe.batch // (recipe.micro_batch or recipe.batch)
        if resources and micro_batches % (resources.nodes * resources.gpus_per_node):
            raise ValueError(
                f"{where}.resources: {resources.nodes} x {resources.gpus_per_node} GPUs share the {micro_batches} "
                f"micro-batches of a step (recipe {variant.recipe}: batch {recipe.batch}); accepted: nodes x "
                f"gpus_per_node = {', '.join(str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0)}"
            )
        if recipe.head_dtype and head.joint:
            raise ValueError(
                f"{where}: recipes.{variant.recipe}.head_dtype {recipe.head_dtype} with DiT, which is one network; "
                "accepted: none"
            )
        if recipe.masks_per_image > 1 and not backbone.masks:
            raise ValueError(
                f"{where}: recipes.{variant.recipe}.masks_per_image {recipe.masks_per_image} with a {backbone.kind} "
                "backbone: belongs to masked; accepted: 1"
            )
        try:
            backbone.check_latents(self.data.image_size // tok.stride, tok.group)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _check_setting(self, name: str, variant: Variant, setting: str) -> None:
        where, tok = f"variants.{name}", self.tokenizers[variant.tokenizer]
        backbone, head, recipe = (
            self.backbones[variant.backbone],
            self.heads[variant.head],
            self.recipes[variant.recipe],
        )
        if setting not in self.sampling:
            accepted = f"{listed(self.sampling, setting)}, or a figure or table of the study"
            raise ValueError(f"{where}.sampling: found {setting!r}; accepted: {accepted}")
        sampling = self.sampling[setting]
        at, tokens = f"{where}: sampling.{setting}", self.tokens(variant.tokenizer)
        if sampling.order and variant.order.fixed:
            raise ValueError(
                f"{at}.order {sampling.order} with order {variant.order.kind} of the variant; accepted: none"
            )
        if tok.sides and sampling.steps != len(tok.sides):
            raise ValueError(
                f"{at}.steps {sampling.steps}: a step draws a scale, and tokenizer {variant.tokenizer} has "
                f"{len(tok.sides)}; accepted: {len(tok.sides)}"
            )
        for point in sampling.points:
            check_sampling(at, point, backbone, head, variant.head, 1 if backbone.joint else tokens)
        guided = any(point.guidance > 1.0 for point in sampling.points)
        if guided and recipe.label_drop in (0.0, 1.0) and not variant.pretrained:
            text = (
                f"recipes.{variant.recipe}.label_drop {recipe.label_drop:g} trains "
                f"{'without any' if recipe.label_drop else 'never without a'} class, and {at} has guidance; accepted: "
                "between 0 and 1, or guidance 1"
            )
            raise MistakesError([Mistake((), text, ("recipes", variant.recipe, "label_drop"))])
        if sampling.sweep:
            self._check_classes(f"{at}.sweep.samples", sampling.sweep.samples)
        if sampling.sweep and sampling.sweep.samples % self.metrics.chunk:
            raise ValueError(
                f"{at}.sweep.samples {sampling.sweep.samples} is not a multiple of metrics.chunk {self.metrics.chunk}; "
                "accepted: one"
            )
