# The study, the files that it asks for, and functions that the rules share. Reading the workflow imports no torch.
import os
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

import mar
from mar.cluster import fork_server, gpus
from mar.cluster import resources as machine
from mar.data import published
from mar.features import given as given_sets
from mar.paper import claims as paper_claims
from mar.planning import drill_shapes
from mar.report.tables.inputs import inputs as inputs_of_table
from mar.runtime import code_digest
from mar.runtime.files import read
from mar.study import commands, layout, products, reading, real_sets, sizes, stage_keys
from mar.study.records import ImportRecord

for folder in (workflow.basedir, os.getcwd()):
    if {"{", "}"} & set(str(folder)):
        raise WorkflowError(
            f"{folder}: found braces in the path, which Snakemake takes for wildcards; accepted: a folder without"
        )

try:
    STUDY, SOURCE = reading.of_config(
        config, workflow.overwrite_configfiles or workflow.configfiles
    )
except reading.StudyError as error:
    raise WorkflowError(str(error))
try:
    paper_claims.check(STUDY)
except ValueError as error:
    raise WorkflowError(str(reading.blame(error, SOURCE)))
# What the captions of Snakemake's report say: a study that extends another has not all of it in `config`.
config["titles"] = {name: table.title for name, table in STUDY.tables.items()}

if STUDY.reuse and not (
    (layout.RESULTS / STUDY.reuse).is_dir()
    or layout.shipped(f"{STUDY.reuse}.yaml").exists()
):
    raise WorkflowError(
        f"{SOURCE}: reuse: found {STUDY.reuse!r}; accepted: a study that has results, or one that ships"
    )

# The commands read the resolved study. It is no input of the rules, since `params` hold what each result depends on.
STUDY_FILE = str(reading.write_resolved(STUDY))
ROOT = layout.RESULTS / STUDY.study
try:
    given_sets.check(STUDY, ROOT)
except ValueError as error:
    raise WorkflowError(str(reading.blame(error, SOURCE)))
given_sets.note_states(STUDY, ROOT)


def here(path):
    """A path relative to the working directory, as the workflow names its files."""
    return os.path.relpath(path)


def code(*packages):
    """The source files of packages of `mar`: inputs of a rule whose product is made anew when they change."""
    places = [Path(mar.__file__).parent / package for package in packages]
    files = (
        path
        for place in places
        for path in (place.rglob("*") if place.is_dir() else [place])
    )
    return sorted(
        here(path) for path in files if path.suffix in (".py", ".html", ".css")
    )


def job(*names):
    """Folder of a job of this study."""
    return str(layout.job(ROOT, *names))


def names(values):
    """A wildcard constraint that accepts these names."""
    return "|".join(re.escape(str(value)) for value in values) or "none"


wildcard_constraints:
    tokenizer=names(STUDY.instances),
    variant=names(STUDY.variants),
    seed=r"\d+",
    setting=names(STUDY.sampling),
    table=names(products.table_names(STUDY)),
    figure=names(products.figure_names(STUDY)),
    extractor=names(STUDY.metrics.extractors),
    split=names(real_sets.SETS),
    given=names(STUDY.given),
    set=rf"({names(real_sets.SETS)}|.+/seed\d+/[^/]+|{layout.given_set('[^/]+')})",


def outputs_of(jobs):
    """A file that each job of a run makes, by stage and name: the path of its log below logs/."""
    logs = layout.logs(ROOT)
    return {
        str(Path(job.log[0]).relative_to(logs).with_suffix("")): str(job.output[0])
        for job in jobs
        if job.log and job.output and logs in Path(job.log[0]).parents
    }


# The results that the study asks for. A variant without seeds is described but not trained.
TRAINED = {name: variant for name, variant in STUDY.variants.items() if variant.seeds}
TOKENIZERS = sorted(products.used_tokenizers(STUDY))
LEARNED = {name for name in TOKENIZERS if STUDY.instances[name].config.trained}
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
# Sets that others drew: tables and report show them, and nothing else.
GIVEN = [str(layout.metrics(ROOT, layout.given_set(name))) for name in STUDY.given]
SPEEDS = [str(layout.speed(ROOT, name)) for name in TIMED]
SWEEPS = [
    str(layout.sweep(ROOT, variant, setting))
    for variant, setting in products.swept(STUDY)
]
LEARNING = [
    str(layout.learning(ROOT, variant, seed))
    for variant, seed in products.learned(STUDY)
]
TASKS = [
    str(layout.tasks(ROOT, variant, seed)) for variant, seed in products.edited(STUDY)
]
TABLES = [
    str(layout.table(ROOT, name, suffix))
    for name in products.table_names(STUDY)
    for suffix in layout.TABLE_FORMATS
]
# Without images of its own a study has tables alone: no floor, and no figures and report, whose samples stand beside
# real images.
IMAGES = not STUDY.data.unread
FLOOR = [layout.reference_metrics(ROOT)] if IMAGES else []
FIGURES = [
    str(layout.figure(ROOT, name, suffix))
    for name in (products.figure_names(STUDY) if IMAGES else ())
    for suffix in layout.FIGURE_FORMATS
]
PAGE = (
    [layout.claims(ROOT), layout.report(ROOT), layout.tracked(ROOT)] if IMAGES else []
)
ALIASES = [str(layout.FIGURES / Path(path).name) for path in FIGURES]
# All tables of the paper: a claim may name any of them, also one that the study does not show.
PAPER = sorted(here(path) for path in layout.shipped("paper").glob("*.csv"))

# Where a job runs, and what it asks for, is set by resources, which rerun nothing when they change.
SETTINGS = workflow.resource_settings
MACHINE = {
    name: resource.raw for name, resource in (SETTINGS.default_resources or {}).items()
}
LIMITS = {
    name: getattr(limit, "raw", limit) for name, limit in SETTINGS.resources.items()
}
BY_RULE = {
    each: {name: resource.raw for name, resource in values.items()}
    for each, values in (SETTINGS.overwrite_resources or {}).items()
}


def study_resources(variant):
    """What the study says of a training of a variant, and how long before its end a large one has to save."""
    said, seconds = STUDY.variants[variant].resources, sizes.warning(STUDY, variant)
    early = seconds > sizes.DEFAULT and "slurm_signal" not in MACHINE
    warned = {"slurm_signal": seconds} if early else {}
    if said is None:
        return warned
    minutes = round(60 * said.hours)
    return warned | {
        "nodes": said.nodes,
        "gpus_per_node": said.gpus_per_node,
        "runtime": minutes,
    }


def asked(job_of, variant=None):
    """Every resource of a job of a rule that is launched, of a training by its variant."""
    if job_of == "encode" and STUDY.data.unread:
        return machine.UNSET  # it writes what tokens are like, and no tokens
    study = study_resources(variant) if variant else {}
    return machine.asked(job_of, MACHINE, BY_RULE, study, LIMITS)


def check_gpus(variant):
    """Refuse a number of GPUs that cannot share the micro-batches of a variant's training."""
    values, name = asked("train", variant), STUDY.variants[variant].recipe
    recipe = STUDY.recipes[name]
    micro = recipe.micro_batch or recipe.batch
    machine.check_shares(
        f"train {variant}",
        machine.number_of_gpus(values),
        recipe.batch // micro,
        f"recipes.{name}: batch {recipe.batch}, micro_batch {micro}",
    )


try:
    machine.check(MACHINE, BY_RULE)
    machine.check_jobs({name: asked(name) for name in machine.STAGES})
    if MACHINE.get("launcher", "local") != "slurm":
        gpus.usable(LIMITS.get("gpu", 0))
    for name, variant in STUDY.variants.items():
        if variant.seeds and not variant.pretrained:
            check_gpus(name)
except ValueError as error:
    raise WorkflowError(str(error))
# A given set: its name in the paths of a rule.
GIVEN_SET = layout.given_set("{given}")
# A sample set: its name in the paths of a rule, and the options of its command.
SET = layout.sample_set("{variant}", "{seed}", "{setting}")
ONE_SET = {name: f"{{wildcards.{name}:q}}" for name in ("variant", "seed", "setting")}


# A profile limits the jobs in the queue by `resources: {cluster_jobs: N, cluster_trainings: N}`. Where it has no limit
# of their own for trainings, they count among the others.
CAPS = ("cluster_jobs", "cluster_trainings")
TRAININGS = CAPS["cluster_trainings" in workflow.global_resources]


def launched(job_of):
    """The resources of a rule whose command is launched."""
    return {**asked(job_of), "cluster_jobs": 1}


def published_first(wildcards):
    """Priority of a job: what comes of published weights costs no training and is the first to look at."""
    name = wildcards.get("variant", wildcards.get("set", "")).partition("/")[0]
    return 10 if name in STUDY.variants and STUDY.variants[name].pretrained else 0


def make_room():
    """Let as many launchers wait at once as the profile says: Snakemake runs at most cores + 5 commands at once."""
    caps = [
        workflow.global_resources[name]
        for name in CAPS
        if name in workflow.global_resources
    ]
    waiting = sum(int(getattr(cap, "value", cap)) for cap in caps)
    if MACHINE.get("launcher") != "slurm" or not waiting:
        return
    try:  # Snakemake has no setting for it
        executor = workflow.scheduler._executor
        executor.workers += waiting
        executor.pool._max_workers = executor.workers
    except AttributeError:
        print(
            f"at most {workflow.cores + 5} stages wait at once, whatever {', '.join(CAPS)} are: say --cores {waiting}",
            flush=True,
        )


def forked(job):
    return job.threads == 1 or job.rule.name == fork_server.TIMING


def begin_fork_server():
    """Start what forks the jobs of this machine, so that not each of them imports torch anew."""
    try:
        needed = workflow.dag.needrun_jobs()
        local = [job for job in needed if job.resources.get("launcher") == "local"]
        if (
            not workflow.deployment_settings.deployment_method
        ):  # else each job is in an environment of its own
            fork_server.begin(sum(forked(job) for job in local))
    except (AttributeError, TypeError, OSError) as error:
        # Jobs start without it too, and Snakemake promises none of these names.
        print(f"jobs import torch anew: {error}", flush=True)


def wake_when_a_job_ends():
    """Drop Snakemake's limit of jobs a second, unless the user has given another than its default of 100.

    With a limit each round of the scheduler asks for one more a second later, so that after N jobs it makes N rounds a
    second as long as others wait to be started: a twelfth of a core, on average, in a workflow of 229 jobs.
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def waiting(job_of, here=1):
    """Threads of a launched rule: none of this machine where its job waits in a queue, else `here`."""
    return 0 if asked(job_of)["launcher"] == "slurm" else here


def line(stage, tee="tee", **values):
    """The shell line that runs a command of `mar`; with `tee -a` it goes on in the log of another one."""
    command = commands.command(stage, "{params.study:q}", **values)
    return f"mar --threads {{threads}} {command} 2>&1 | {tee} {{log:q}}"


def launch(stage, **values):
    """The shell line that runs a command of `mar` as a job, for what a GPU speeds up. Zero and empty mean not set."""
    command = commands.command(stage, "{params.study:q}", **values)
    return (
        f"mar launch {machine.options()} --folder {{params.job:q}} --recipe {{params.recipe:q}}"
        " --inputs \"$(printf '%q ' {input:q})\" --outputs \"$(printf '%q ' {output:q})\""
        f" -- --threads {{threads}} {command} --recipe {{params.recipe:q}} 2>&1 | tee {{log:q}}"
    )


def tokenizer_recipe(wildcards):
    return stage_keys.tokenizer_key(STUDY, wildcards.tokenizer)


def train_recipe(wildcards):
    return stage_keys.train_key(STUDY, wildcards.variant, int(wildcards.seed))


def sample_recipe(wildcards):
    return stage_keys.sample_key(STUDY, wildcards.variant, wildcards.setting)


def sweep_recipe(wildcards):
    return stage_keys.sweep_key(STUDY, wildcards.variant, wildcards.setting)


def learning_recipe(wildcards):
    return stage_keys.learning_key(STUDY, wildcards.variant)


def tasks_recipe(wildcards):
    return stage_keys.tasks_key(STUDY, wildcards.variant)


def speed_recipe(wildcards):
    return stage_keys.speed_key(STUDY, wildcards.variant)


def table_recipe(wildcards):
    return stage_keys.table_key(STUDY, wildcards.table)


def figure_recipe(wildcards):
    return stage_keys.figure_key(STUDY, wildcards.figure)


def tokenizer_of(wildcards):
    """The tokenizer of a training; of the first seed's where a rule has no seed, as for timings and sweeps."""
    seed = wildcards.get("seed", (*STUDY.variants[wildcards.variant].seeds, 0)[0])
    return STUDY.tokenizer_of(wildcards.variant, seed)


def variant_tokenizer(wildcards):
    """Weights of the tokenizer that decodes the tokens of a variant."""
    return layout.tokenizer_weights(ROOT, tokenizer_of(wildcards))


def variant_tokens(wildcards):
    """Manifest of the tokens that a variant is trained on."""
    return layout.token_manifest(ROOT, tokenizer_of(wildcards))


def gate_inputs(wildcards):
    """What the two tokenizers of the study's section `gate` lose."""
    sides = (STUDY.gate.crossent, STUDY.gate.diffloss) if STUDY.gate else ()
    sections = {side.tokenizer for side in sides}
    return [
        layout.rfid(ROOT, name)
        for name, made in STUDY.instances.items()
        if made.section in sections
    ]


def timed_run(wildcards):
    """The run with the first seed of a variant, which is the one for timings and sweeps."""
    seed = STUDY.variants[wildcards.variant].seeds[0]
    return layout.run_record(ROOT, wildcards.variant, seed)


def chosen(wildcards):
    """The sweep that chooses guidance and temperature of a sample set, if there is one."""
    path = str(layout.sweep(ROOT, wildcards.variant, wildcards.setting))
    return [path] if path in SWEEPS else []


def rejecting(settings):
    """Weights of the network that accepts images, where one of these settings rejects."""
    if not any(STUDY.sampling[name].reject for name in settings):
        return []
    if STUDY.rejecter.weights:
        return [fetched(STUDY.rejecter.weights)]
    return [layout.rejecter(ROOT) / layout.WEIGHTS]


def sample_rejecter(wildcards):
    """What accepts the images of a sample set."""
    return rejecting([wildcards.setting])


def timed_rejecter(wildcards):
    """What accepts the images of the settings of a variant that are timed."""
    return rejecting(products.speed_settings(STUDY, wildcards.variant))


def task_chosen(wildcards):
    """The sweep that chooses guidance and temperature of the setting of a model's zero-shot tasks, if there is one."""
    setting = STUDY.tasks.models[wildcards.variant] if STUDY.tasks else ""
    path = str(layout.sweep(ROOT, wildcards.variant, setting))
    return [path] if path in SWEEPS else []


def timed_chosen(wildcards):
    """The sweeps of all settings of a variant that are timed."""
    timed = products.speed_settings(STUDY, wildcards.variant)
    paths = [str(layout.sweep(ROOT, wildcards.variant, setting)) for setting in timed]
    return [path for path in paths if path in SWEEPS]


def learning_inputs(wildcards):
    """What the curves of a training need beside it: held-out tokens, and where samples are asked what judges them."""
    tokenizer = tokenizer_of(wildcards)
    tokens = layout.token_manifest(ROOT, tokenizer, "heldout")
    setting = products.learning_setting(STUDY, wildcards.variant)
    pictured = products.pictured_setting(STUDY, wildcards.variant)
    chosen_by = [
        path
        for name in filter(None, (setting, pictured))
        if (path := str(layout.sweep(ROOT, wildcards.variant, name))) in SWEEPS
    ]
    if setting is None:
        return [
            tokens,
            *([layout.tokenizer_weights(ROOT, tokenizer)] if pictured else []),
            *chosen_by,
        ]
    judge = STUDY.metrics.extractors[0]
    return [
        tokens,
        layout.tokenizer_weights(ROOT, tokenizer),
        *extractor_weights(judge),
        layout.features_manifest(ROOT, judge, real_sets.validation(STUDY)),
        *dict.fromkeys(chosen_by),
    ]


def table_paper(wildcards):
    """File of the paper's numbers for a table; none for `metrics`, `variance` and `fast`."""
    table = STUDY.tables.get(wildcards.table)
    return (
        here(layout.shipped("paper", f"{table.paper}.csv"))
        if table and table.paper
        else []
    )


def table_inputs(wildcards):
    """Files that a table needs beside the metrics: for parameters, rFID, seconds per image and sweeps."""
    return inputs_of_table(STUDY, ROOT, wildcards.table)


def figure_inputs(wildcards):
    """Files that a figure is drawn from. The interval of a curve includes the spread over seeds of the whole study."""
    if wildcards.figure in products.CURVES:
        return [
            *METRICS,
            layout.reference_metrics(ROOT),
            *(SPEEDS if wildcards.figure == "tradeoff" else []),
            *SWEEPS,
            here(layout.shipped("paper", "mar_figure_anchors.csv")),
        ]
    if wildcards.figure == "claims":
        return [layout.claims(ROOT), here(layout.shipped("claims.yaml")), *PAPER]
    if wildcards.figure in ("sweep", "guidance"):
        return SWEEPS
    along = ("heldout_loss", "fid_images", "fid_operations", "laws", "laws_samples")
    if wildcards.figure in along:
        return LEARNING
    if wildcards.figure == "tokenizers":
        return [layout.rfid(ROOT, name) for name in TOKENIZERS]
    if wildcards.figure == "rejection":
        groups = [
            (v, s) for v, of in products.rejections(STUDY).items() for s in sum(of, [])
        ]
        seeds = [(v, k, s) for v, s in groups for k in STUDY.variants[v].seeds]
        drawn = [
            layout.sample_manifest(ROOT, layout.sample_set(*name)) for name in seeds
        ]
        return [*METRICS, layout.reference_metrics(ROOT), *SWEEPS, *drawn]
    if wildcards.figure == "tasks":
        return [layout.data_manifest(ROOT), *TASKS]
    if wildcards.figure == "samples":
        return [
            layout.data_manifest(ROOT),
            *(layout.sample_manifest(ROOT, name) for name in SETS),
        ]
    return RUNS


# Published weights: see assets.smk.
ASSETS = layout.ASSETS
PUBLISHED = published.table(published.TABLE)


def by_hand(name):
    """Whether a user made this import by `mar import FORMAT FILE`: the workflow neither deletes nor remakes it."""
    record = layout.import_record(ASSETS, name)
    weights = layout.import_weights(ASSETS, name)
    return (
        record.exists()
        and weights.exists()
        and read(record, ImportRecord).asset is None
    )


def imported(name, section):
    """The imported weights of a pretrained tokenizer or variant; none for one that is trained."""
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
    return imported(wildcards.tokenizer, STUDY.instances[wildcards.tokenizer].config)


def variant_weights(wildcards):
    return imported(wildcards.variant, STUDY.variants[wildcards.variant])


def asset_format(wildcards):
    return PUBLISHED[wildcards.asset].format


def published_name(wildcards):
    return Path(wildcards.published).stem


def fetched(name):
    """Path of a published file: where it is, or else where it will be downloaded to."""
    places = published.places(PUBLISHED[name], ASSETS)
    return next((str(path) for path in places if path.exists()), str(places[0]))


def extractor_weights(extractor):
    """Weights of an extractor: the study's own classifier, or published ones."""
    if extractor == "classifier":
        return [layout.classifier(ROOT) / layout.WEIGHTS]
    return [fetched(published.WEIGHTS[extractor])]


def reference_file():
    """File of Inception's reference; none without one, or for a folder, whose modification time tells little."""
    reference = STUDY.metrics.reference
    if reference is None or Path(reference.file).is_dir():
        return []
    if reference.file not in PUBLISHED and not Path(reference.file).is_file():
        raise WorkflowError(
            f"{SOURCE}: metrics.reference.file: found {reference.file!r}; accepted: a name in"
            " config/assets.csv, a file, or a folder"
        )
    return [fetched(reference.file) if reference.file in PUBLISHED else reference.file]


REFERENCE = reference_file()


def judge_weights(wildcards):
    """Weights of the extractor of a rule."""
    return extractor_weights(wildcards.extractor)


def real_files(wildcards):
    """File of Inception's reference where the rule makes the features of `reference`."""
    return REFERENCE if wildcards.split == "reference" else []


def features_recipe(wildcards):
    return stage_keys.features_key(STUDY, wildcards.extractor)


def heldout_features():
    """Features of the held-out images that are scored, by each extractor."""
    scored, extractors = real_sets.scored(STUDY), STUDY.metrics.extractors
    return [layout.features_manifest(ROOT, name, scored) for name in extractors]


def set_statistics(wildcards):
    """Statistics of the features of a sample set by each extractor."""
    images = layout.sample_set(wildcards.variant, wildcards.seed, wildcards.setting)
    names = STUDY.metrics.extractors
    return [layout.statistics(ROOT, name, images) for name in names]


def given_statistics(wildcards):
    """Statistics of the features of a given set by each extractor."""
    images = layout.given_set(wildcards.given)
    return [layout.statistics(ROOT, name, images) for name in STUDY.metrics.extractors]


# Weights of the first extractor, whose metrics tables, figures and claims show, and the real images of each extractor.
JUDGE = extractor_weights(STUDY.metrics.extractors[0])
# LPIPS, where no classifier of the study's own measures distances of the zero-shot tasks.
DISTANCE = (
    []
    if "classifier" == STUDY.metrics.extractors[0] or not STUDY.tasks
    else [fetched(name) for name in published.LPIPS]
)
CLASSIFIER = (
    [layout.classifier(ROOT) / layout.CLASSIFIER]
    if "classifier" in STUDY.metrics.extractors
    else []
)
REAL = [
    layout.statistics(ROOT, name, real_sets.real_side(STUDY, name))
    for name in STUDY.metrics.extractors
]


def of_training(name):
    """Resource `name` of a training, which the study may say for each variant."""
    return lambda wildcards: asked("train", wildcards.variant)[name]


# Shapes of networks that the drill runs: see drill.smk.
SHAPES = drill_shapes.shapes(STUDY)


def shape_recipe(wildcards):
    return drill_shapes.shape_key(STUDY, SHAPES[wildcards.shape])
