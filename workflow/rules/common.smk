# The study, the files it asks for, and what rules share. Parsing imports no torch.
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from mar import study as studies

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
    table=names(STUDY.tables),
    figure="tradeoff|samples|losses",


# What the study asks for: a variant without seeds is declared, not run.
TRAINED = {name: variant for name, variant in STUDY.variants.items() if variant.seeds}
TOKENIZERS = sorted({variant.tokenizer for variant in TRAINED.values()})
TIMED = [name for name in TRAINED if studies.speed_settings(STUDY, name)]
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
TABLES = [
    f"{ROOT}/tables/{name}.{ext}"
    for name in STUDY.tables
    for ext in ("csv", "md", "tex")
]
FIGURES = [
    f"{FIGURE_ROOT}/{name}.{ext}"
    for name in ("tradeoff", "samples", "losses")
    for ext in ("pdf", "png", "csv")
]
ALIASES = [f"figures/{Path(path).name}" for path in FIGURES]
# The claims name the paper's tables themselves, whatever a study shows.
PAPER = sorted(
    {f"config/paper/{table.paper}.csv" for table in STUDY.tables.values()}
    | {"config/paper/mar_table1.csv"}
)

# Where a job runs is the machine's business: resources, which rerun nothing. A profile's `default-resources`
# take the place of these, which a value in the rule would not allow.
LAUNCH_RESOURCES = {
    name: value
    for name, value in {
        "launcher": "local",
        "slurm_partition": "",
        "slurm_account": "",
        "qos": "",
        "constraint": "",
        "nodes": 0,
        "gpus_per_node": 0,
        "runtime": 0,  # minutes
        "mem_mb": 0,
        "cluster_jobs": 1,  # how many of these wait at once: `resources: {cluster_jobs: N}` in a profile
    }.items()
    if name not in (workflow.resource_settings.default_resources or {})
}


def launch(command):
    """The shell line of what a GPU speeds up: a command of `mar` as a job. Zero and nothing are settings not made."""
    return (
        "mar launch --cluster {resources.launcher} --folder {params.job} --recipe {params.recipe:q}"
        " --slurm-partition={resources.slurm_partition:q} --slurm-account={resources.slurm_account:q}"
        " --slurm-qos={resources.qos:q} --slurm-constraint={resources.constraint:q}"
        " --slurm-nodes={resources.nodes} --slurm-gpus-per-node={resources.gpus_per_node}"
        " --slurm-time={resources.runtime} --slurm-mem={resources.mem_mb}"
        f" -- --threads {{threads}} {command} --recipe {{params.recipe:q}} 2>&1 | tee {{log}}"
    )


def tokenizer_recipe(wildcards):
    return studies.tokenizer_slice(STUDY, wildcards.tokenizer)


def train_recipe(wildcards):
    return studies.train_slice(STUDY, wildcards.variant, int(wildcards.seed))


def sample_recipe(wildcards):
    return studies.sample_slice(STUDY, wildcards.variant, wildcards.setting)


def speed_recipe(wildcards):
    return studies.speed_slice(STUDY, wildcards.variant)


def table_recipe(wildcards):
    return studies.table_slice(STUDY, wildcards.table)


def figure_recipe(wildcards):
    return studies.figure_slice(STUDY, wildcards.figure)


def variant_tokenizer(wildcards):
    """Weights that decode what a variant generates."""
    return f"{ROOT}/tokenizers/{STUDY.variants[wildcards.variant].tokenizer}/model.safetensors"


def variant_tokens(wildcards):
    """Tokens that a variant is trained on."""
    return f"{ROOT}/tokens/{STUDY.variants[wildcards.variant].tokenizer}/train/manifest.json"


def timed_run(wildcards):
    """The run of a variant that is timed: its first seed."""
    return f"{ROOT}/runs/{wildcards.variant}/seed{STUDY.variants[wildcards.variant].seeds[0]}/run.json"


def table_paper(wildcards):
    """The paper's numbers for a table."""
    return f"config/paper/{STUDY.tables[wildcards.table].paper}.csv"


def figure_inputs(wildcards):
    """What a figure is drawn from; the trade-off's intervals hold the seed spread of the whole study."""
    if wildcards.figure == "tradeoff":
        return [*METRICS, f"{ROOT}/metrics/reference.json", *SPEEDS]
    if wildcards.figure == "samples":
        return [
            f"{ROOT}/data/manifest.json",
            *(f"{ROOT}/samples/{key}/manifest.json" for key in SETS),
        ]
    return RUNS
