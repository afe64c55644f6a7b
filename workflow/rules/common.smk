# The study, the files it asks for, and what rules share. Parsing imports no torch.
import os
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

import mar
from mar.cluster import resources as machine
from mar.data import published
from mar.planning import drill_shapes
from mar.report.tables.inputs import inputs as inputs_of_table
from mar.runtime.files import read
from mar.study import commands, layout, products, reading, stage_keys
from mar.study.records import ImportRecord

CONFIGFILES = workflow.overwrite_configfiles or workflow.configfiles
try:
    if not CONFIGFILES:
        raise reading.StudyError(
            "no study file; accepted: --configfile config/<study>.yaml"
        )
    for file in CONFIGFILES:
        # Snakemake's reader takes the last of two equal keys; ours refuses them.
        reading.read(Path(file))
    STUDY = reading.resolve(config, Path(CONFIGFILES[-1]))
except reading.StudyError as error:
    raise WorkflowError(str(error))

# The commands read the resolved study. It is no declared input: params say what a result depends on.
STUDY_FILE = str(reading.write_resolved(STUDY))
ROOT = layout.RESULTS / STUDY.study


def here(path):
    """A path as the workflow calls it: from the working directory."""
    return os.path.relpath(path)


def code(*packages):
    """The files of packages of `mar`, which an edited product is drawn anew for."""
    folders = [Path(mar.__file__).parent / package for package in packages]
    files = (path for folder in folders for path in folder.rglob("*"))
    return sorted(
        here(path) for path in files if path.suffix in (".py", ".html", ".css")
    )


def job(*names):
    """Folder of a job of this study."""
    return str(layout.job(ROOT, *names))


def names(values):
    """A wildcard constraint: one of these names."""
    return "|".join(re.escape(str(value)) for value in values) or "none"


wildcard_constraints:
    tokenizer=names(STUDY.tokenizers),
    variant=names(STUDY.variants),
    seed=r"\d+",
    setting=names(STUDY.sampling),
    table=names(products.table_names(STUDY)),
    figure=names(products.figure_names(STUDY)),
    extractor=names(STUDY.metrics.extractors),
    split="train|heldout|reference",
    set=r"(train|heldout|reference|.+/seed\d+/[^/]+)",


# What the study asks for: a variant without seeds is declared, not run.
TRAINED = {name: variant for name, variant in STUDY.variants.items() if variant.seeds}
TOKENIZERS = sorted({variant.tokenizer for variant in TRAINED.values()})
TIMED = [name for name in TRAINED if products.speed_settings(STUDY, name)]
RUNS = [
    str(layout.run_record(ROOT, name, seed))
    for name, variant in TRAINED.items()
    for seed in variant.seeds
]
SETS = [
    layout.sample_set(name, seed, setting)
    for name, variant in TRAINED.items()
    for seed in variant.seeds
    for setting in variant.sampling
]
METRICS = [str(layout.metrics(ROOT, name)) for name in SETS]
SPEEDS = [str(layout.speed(ROOT, name)) for name in TIMED]
SWEEPS = [
    str(layout.sweep(ROOT, variant, setting))
    for variant, setting in products.swept(STUDY)
]
TABLES = [
    str(layout.table(ROOT, name, suffix))
    for name in products.table_names(STUDY)
    for suffix in layout.TABLE_FORMATS
]
FIGURES = [
    str(layout.figure(ROOT, name, suffix))
    for name in products.figure_names(STUDY)
    for suffix in layout.FIGURE_FORMATS
]
ALIASES = [str(layout.FIGURES / Path(path).name) for path in FIGURES]
# The claims name the paper's tables themselves, whatever a study shows.
PAPER = sorted(here(path) for path in layout.shipped("paper").glob("*.csv"))

# Where a job runs is the machine's business: resources, which rerun nothing. A profile's `default-resources`
# take the place of these, which a value in the rule would not allow.
MACHINE = workflow.resource_settings.default_resources or {}
try:
    machine.check(
        {name: MACHINE[name].raw for name in MACHINE},
        workflow.resource_settings.overwrite_resources or {},
    )
except ValueError as error:
    raise WorkflowError(str(error))
# A sample set in the paths of a rule, and as options of its command.
SET = layout.sample_set("{variant}", "{seed}", "{setting}")
ONE_SET = {name: f"{{wildcards.{name}}}" for name in ("variant", "seed", "setting")}
LAUNCH_RESOURCES = {
    name: value
    for name, value in {
        **{name: unset for name, (option, unset) in machine.LAUNCH.items()},
        "cluster_jobs": 1,  # how many of these wait at once: `resources: {cluster_jobs: N}` in a profile
    }.items()
    if name not in MACHINE
}


def line(stage, **values):
    """The shell line of a command of `mar`."""
    command = commands.command(stage, "{params.study}", **values)
    return f"mar --threads {{threads}} {command} 2>&1 | tee {{log}}"


def launch(stage, **values):
    """The shell line of what a GPU speeds up: a command of `mar` as a job. Zero and nothing are settings not made."""
    command = commands.command(stage, "{params.study}", **values)
    return (
        f"mar launch {machine.options()} --folder {{params.job}} --recipe {{params.recipe:q}}"
        " --inputs '{input}' --outputs '{output}'"
        f" -- --threads {{threads}} {command} --recipe {{params.recipe:q}} 2>&1 | tee {{log}}"
    )


def tokenizer_recipe(wildcards):
    return stage_keys.tokenizer_key(STUDY, wildcards.tokenizer)


def train_recipe(wildcards):
    return stage_keys.train_key(STUDY, wildcards.variant, int(wildcards.seed))


def sample_recipe(wildcards):
    return stage_keys.sample_key(STUDY, wildcards.variant, wildcards.setting)


def sweep_recipe(wildcards):
    return stage_keys.sweep_key(STUDY, wildcards.variant, wildcards.setting)


def speed_recipe(wildcards):
    return stage_keys.speed_key(STUDY, wildcards.variant)


def table_recipe(wildcards):
    return stage_keys.table_key(STUDY, wildcards.table)


def figure_recipe(wildcards):
    return stage_keys.figure_key(STUDY, wildcards.figure)


def variant_tokenizer(wildcards):
    """Weights that decode what a variant generates."""
    return layout.tokenizer_weights(ROOT, STUDY.variants[wildcards.variant].tokenizer)


def variant_tokens(wildcards):
    """Tokens that a variant is trained on."""
    return layout.token_manifest(ROOT, STUDY.variants[wildcards.variant].tokenizer)


def timed_run(wildcards):
    """The run of a variant that is timed and swept: its first seed."""
    seed = STUDY.variants[wildcards.variant].seeds[0]
    return layout.run_record(ROOT, wildcards.variant, seed)


def chosen(wildcards):
    """Where guidance and temperature of a sample set come from, if a sweep chooses them."""
    path = str(layout.sweep(ROOT, wildcards.variant, wildcards.setting))
    return [path] if path in SWEEPS else []


def timed_chosen(wildcards):
    """The same of all settings of a variant that are timed."""
    timed = products.speed_settings(STUDY, wildcards.variant)
    paths = [str(layout.sweep(ROOT, wildcards.variant, setting)) for setting in timed]
    return [path for path in paths if path in SWEEPS]


def table_paper(wildcards):
    """The paper's numbers for a table; none for those of our own."""
    table = STUDY.tables.get(wildcards.table)
    return here(layout.shipped("paper", f"{table.paper}.csv")) if table else []


def table_inputs(wildcards):
    """What the columns of a table ask for beside the metrics: counts of parameters, rFID, timings, sweeps."""
    return inputs_of_table(STUDY, ROOT, wildcards.table)


def figure_inputs(wildcards):
    """What a figure is drawn from; the intervals of a curve hold the seed spread of the whole study."""
    if wildcards.figure in products.CURVES:
        return [
            *METRICS,
            layout.reference_metrics(ROOT),
            *(SPEEDS if wildcards.figure == "tradeoff" else []),
            *SWEEPS,
            here(layout.shipped("paper", "mar_figure_anchors.csv")),
        ]
    if wildcards.figure == "sweep":
        return SWEEPS
    if wildcards.figure == "samples":
        return [
            layout.data_manifest(ROOT),
            *(layout.sample_manifest(ROOT, name) for name in SETS),
        ]
    return RUNS


# Imports: see assets.smk.
ASSETS = layout.ASSETS
PUBLISHED = published.table(published.TABLE)


def by_hand(name):
    """Whether `mar import FORMAT FILE` made this import: the workflow neither deletes nor remakes it."""
    record = layout.import_record(ASSETS, name)
    weights = layout.import_weights(ASSETS, name)
    return (
        record.exists()
        and weights.exists()
        and read(record, ImportRecord).asset is None
    )


def imported(name, section):
    """The import that a pretrained tokenizer or variant takes; nothing for one that is trained."""
    if not section.pretrained:
        return []
    weights = section.weights or name
    path = layout.import_weights(ASSETS, weights)
    if weights not in PUBLISHED and not path.exists():
        raise WorkflowError(
            f"{name} is pretrained, {path} is missing, and config/assets.csv has no {weights} to fetch; run"
            f" `mar import FORMAT FILE --as {weights}`"
        )
    return [str(path)]


def tokenizer_weights(wildcards):
    return imported(wildcards.tokenizer, STUDY.tokenizers[wildcards.tokenizer])


def variant_weights(wildcards):
    return imported(wildcards.variant, STUDY.variants[wildcards.variant])


def asset_format(wildcards):
    return PUBLISHED[wildcards.asset].format


def published_name(wildcards):
    return Path(wildcards.published).stem


def fetched(name):
    """A published file, where it is or where it will be fetched to."""
    places = published.places(PUBLISHED[name], ASSETS)
    return next((str(path) for path in places if path.exists()), str(places[0]))


def extractor_weights(extractor):
    """Weights of a network that judges: the study's own classifier, or published ones."""
    if extractor == "classifier":
        return [layout.classifier(ROOT) / layout.WEIGHTS]
    return [fetched(published.WEIGHTS[extractor])]


def reference_file():
    """What stands in for the train split; nothing where a study names none, or a folder, whose times tell little."""
    asked = STUDY.metrics.reference
    if asked is None or Path(asked.file).is_dir():
        return []
    if asked.file not in PUBLISHED and not Path(asked.file).exists():
        raise WorkflowError(
            f"metrics.reference.file {asked.file}: neither in config/assets.csv nor a file or folder"
        )
    return [fetched(asked.file) if asked.file in PUBLISHED else asked.file]


def judge_weights(wildcards):
    """Weights of a network that judges."""
    return extractor_weights(wildcards.extractor)


def real_files(wildcards):
    """The published reference, where a study has one and it is asked for."""
    return reference_file() if wildcards.split == "reference" else []


def features_recipe(wildcards):
    return stage_keys.features_key(STUDY, wildcards.extractor)


def heldout_features():
    """Features of the held-out images by each extractor."""
    names = STUDY.metrics.extractors
    return [layout.features_manifest(ROOT, name, "heldout") for name in names]


def set_statistics(wildcards):
    """Statistics of a sample set by each extractor."""
    judged = layout.sample_set(wildcards.variant, wildcards.seed, wildcards.setting)
    names = STUDY.metrics.extractors
    return [layout.statistics(ROOT, name, judged) for name in names]


# The network whose numbers tables, figures and claims show, and what the numbers of each network compare with.
JUDGE = extractor_weights(STUDY.metrics.extractors[0])
CLASSIFIER = (
    [layout.classifier(ROOT) / layout.CLASSIFIER]
    if "classifier" in STUDY.metrics.extractors
    else []
)
REAL = [
    layout.statistics(ROOT, name, stage_keys.real_side(STUDY, name))
    for name in STUDY.metrics.extractors
]


# A variant that names nodes, GPUs and hours gets them on a cluster; the others get what the site's profile says.
ON_SLURM = "launcher" in MACHINE and MACHINE["launcher"].raw == "slurm"


def asked(name, key, unit=1):
    """Resource `name` of a training: what its variant asks for, else the default of the site."""
    default = MACHINE[name].raw if name in MACHINE else 0

    def value(wildcards):
        variant = STUDY.variants[wildcards.variant]
        resources = variant.resources
        return (
            default
            if resources is None or variant.pretrained
            else int(getattr(resources, key) * unit)
        )

    return value


TRAIN_RESOURCES = LAUNCH_RESOURCES | (
    {
        "nodes": asked("nodes", "nodes"),
        "gpus_per_node": asked("gpus_per_node", "gpus_per_node"),
        "runtime": asked("runtime", "hours", 60),  # minutes
    }
    if ON_SLURM
    else {}
)


# Shapes of the drill: see drill.smk.
SHAPES = drill_shapes.shapes(STUDY)


def shape_recipe(wildcards):
    return drill_shapes.shape_key(STUDY, SHAPES[wildcards.shape])
