# The study, the files it asks for, and what rules share. Parsing imports no torch.
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mar import slices
from mar import study as studies
from mar import assets, tables
from mar import drill as drills
from mar.cluster import resources as machine
from mar.files import read_json
from mar.metrics import WEIGHTS

CONFIGFILES = workflow.overwrite_configfiles or workflow.configfiles
try:
    if not CONFIGFILES:
        raise studies.StudyError(
            "no study file; accepted: --configfile config/<study>.yaml"
        )
    for file in CONFIGFILES:
        # Snakemake's reader takes the last of two equal keys; ours refuses them.
        studies.read(Path(file))
    STUDY = studies.resolve(config, Path(CONFIGFILES[-1]))
except studies.StudyError as error:
    raise WorkflowError(str(error))

# The commands read the resolved study. It is no declared input: params say what a result depends on.
STUDY_FILE = str(studies.write_resolved(STUDY))
ROOT = f"results/{STUDY.study}"
FIGURE_ROOT = f"figures/{STUDY.study}"


def names(values):
    """A wildcard constraint: one of these names."""
    return "|".join(re.escape(str(value)) for value in values) or "none"


wildcard_constraints:
    tokenizer=names(STUDY.tokenizers),
    variant=names(STUDY.variants),
    seed=r"\d+",
    setting=names(STUDY.sampling),
    table=names(slices.table_names(STUDY)),
    figure=names(slices.figure_names(STUDY)),
    extractor=names(STUDY.metrics.extractors),
    split="train|heldout|reference",
    set=r"(train|heldout|reference|.+/seed\d+/[^/]+)",


# What the study asks for: a variant without seeds is declared, not run.
TRAINED = {name: variant for name, variant in STUDY.variants.items() if variant.seeds}
TOKENIZERS = sorted({variant.tokenizer for variant in TRAINED.values()})
TIMED = [name for name in TRAINED if slices.speed_settings(STUDY, name)]
RUNS = [
    f"{ROOT}/runs/{name}/seed{seed}/run.json"
    for name, variant in TRAINED.items()
    for seed in variant.seeds
]
SETS = [
    f"{name}/seed{seed}/{setting}"
    for name, variant in TRAINED.items()
    for seed in variant.seeds
    for setting in variant.sampling
]
METRICS = [f"{ROOT}/metrics/{key}.json" for key in SETS]
SPEEDS = [f"{ROOT}/speed/{name}.json" for name in TIMED]
SWEEPS = [
    f"{ROOT}/sweeps/{variant}/{setting}.json"
    for variant, setting in slices.swept(STUDY)
]
TABLES = [
    f"{ROOT}/tables/{name}.{ext}"
    for name in slices.table_names(STUDY)
    for ext in ("csv", "md", "tex")
]
FIGURES = [
    f"{FIGURE_ROOT}/{name}.{ext}"
    for name in slices.figure_names(STUDY)
    for ext in ("pdf", "png", "csv")
]
ALIASES = [f"figures/{Path(path).name}" for path in FIGURES]
# The claims name the paper's tables themselves, whatever a study shows.
PAPER = sorted(str(path) for path in Path("config/paper").glob("*.csv"))

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
LAUNCH_RESOURCES = {
    name: value
    for name, value in {
        **{name: unset for name, (option, unset) in machine.LAUNCH.items()},
        "cluster_jobs": 1,  # how many of these wait at once: `resources: {cluster_jobs: N}` in a profile
    }.items()
    if name not in MACHINE
}


def launch(command):
    """The shell line of what a GPU speeds up: a command of `mar` as a job. Zero and nothing are settings not made."""
    return (
        f"mar launch {machine.options()} --folder {{params.job}} --recipe {{params.recipe:q}}"
        " --inputs '{input}' --outputs '{output}'"
        f" -- --threads {{threads}} {command} --recipe {{params.recipe:q}} 2>&1 | tee {{log}}"
    )


def tokenizer_recipe(wildcards):
    return slices.tokenizer_slice(STUDY, wildcards.tokenizer)


def train_recipe(wildcards):
    return slices.train_slice(STUDY, wildcards.variant, int(wildcards.seed))


def sample_recipe(wildcards):
    return slices.sample_slice(STUDY, wildcards.variant, wildcards.setting)


def sweep_recipe(wildcards):
    return slices.sweep_slice(STUDY, wildcards.variant, wildcards.setting)


def speed_recipe(wildcards):
    return slices.speed_slice(STUDY, wildcards.variant)


def table_recipe(wildcards):
    return slices.table_slice(STUDY, wildcards.table)


def figure_recipe(wildcards):
    return slices.figure_slice(STUDY, wildcards.figure)


def variant_tokenizer(wildcards):
    """Weights that decode what a variant generates."""
    return f"{ROOT}/tokenizers/{STUDY.variants[wildcards.variant].tokenizer}/model.safetensors"


def variant_tokens(wildcards):
    """Tokens that a variant is trained on."""
    return f"{ROOT}/tokens/{STUDY.variants[wildcards.variant].tokenizer}/train/manifest.json"


def timed_run(wildcards):
    """The run of a variant that is timed and swept: its first seed."""
    return f"{ROOT}/runs/{wildcards.variant}/seed{STUDY.variants[wildcards.variant].seeds[0]}/run.json"


def chosen(wildcards):
    """Where guidance and temperature of a sample set come from, if a sweep chooses them."""
    path = f"{ROOT}/sweeps/{wildcards.variant}/{wildcards.setting}.json"
    return [path] if path in SWEEPS else []


def timed_chosen(wildcards):
    """The same of all settings of a variant that are timed."""
    timed = slices.speed_settings(STUDY, wildcards.variant)
    paths = [f"{ROOT}/sweeps/{wildcards.variant}/{setting}.json" for setting in timed]
    return [path for path in paths if path in SWEEPS]


def table_paper(wildcards):
    """The paper's numbers for a table; none for those of our own."""
    table = STUDY.tables.get(wildcards.table)
    return f"config/paper/{table.paper}.csv" if table else []


def table_inputs(wildcards):
    """What the columns of a table ask for beside the metrics: counts of parameters, rFID, timings, sweeps."""
    return [f"{ROOT}/{path}" for path in tables.inputs(STUDY, wildcards.table)]


def figure_inputs(wildcards):
    """What a figure is drawn from; the intervals of a curve hold the seed spread of the whole study."""
    if wildcards.figure in slices.CURVES:
        return [
            *METRICS,
            f"{ROOT}/metrics/reference.json",
            *(SPEEDS if wildcards.figure == "tradeoff" else []),
            *SWEEPS,
            "config/paper/mar_figure_anchors.csv",
        ]
    if wildcards.figure == "sweep":
        return SWEEPS
    if wildcards.figure == "samples":
        return [
            f"{ROOT}/data/manifest.json",
            *(f"{ROOT}/samples/{key}/manifest.json" for key in SETS),
        ]
    return RUNS


# Imports: see assets.smk.
ASSETS = Path("results/assets")
PUBLISHED = assets.table(Path("config/assets.csv"))


def by_hand(name):
    """Whether `mar import FORMAT FILE` made this import: the workflow neither deletes nor remakes it."""
    record = ASSETS / f"{name}.json"
    weights = ASSETS / f"{name}.safetensors"
    return record.exists() and weights.exists() and read_json(record)["asset"] is None


def imported(name, section):
    """The import that a pretrained tokenizer or variant takes; nothing for one that is trained."""
    if not section.pretrained:
        return []
    weights = section.weights or name
    path = ASSETS / f"{weights}.safetensors"
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
    places = assets.places(PUBLISHED[name], ASSETS)
    return next((str(path) for path in places if path.exists()), str(places[0]))


def extractor_weights(extractor):
    """Weights of a network that judges: the study's own classifier, or published ones."""
    if extractor == "classifier":
        return [f"{ROOT}/classifier/model.safetensors"]
    return [fetched(WEIGHTS[extractor])]


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
    return slices.features_slice(STUDY, wildcards.extractor)


def judged_by(path):
    """A file of each extractor."""
    return [
        f"{ROOT}/{path.format(extractor=name)}" for name in STUDY.metrics.extractors
    ]


# The network whose numbers tables, figures and claims show, and what the numbers of each network compare with.
JUDGE = extractor_weights(STUDY.metrics.extractors[0])
CLASSIFIER = (
    [f"{ROOT}/classifier/classifier.json"]
    if "classifier" in STUDY.metrics.extractors
    else []
)
REAL = [
    f"{ROOT}/statistics/{name}/{slices.real_side(STUDY, name)}.npz"
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
SHAPES = drills.shapes(STUDY)


def shape_recipe(wildcards):
    return drills.shape_slice(STUDY, wildcards.shape)
