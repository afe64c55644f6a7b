# From a study file to every table, figure and verdict.
#   snakemake all                                    config/digits.yaml
#   snakemake all --configfile config/demo.yaml      another study
#   snakemake figures/tradeoff.pdf --configfile config/demo.yaml      one product
#   snakemake drill --configfile config/imagenet256.yaml      each shape of network once on generated images
import sys

from snakemake.utils import min_version

min_version("9.27")


# Snakemake merges a second configfile into the first, so this one is read only where no other is given.
if not workflow.overwrite_configfiles:

    configfile: "config/digits.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/messages.smk"
include: "workflow/rules/common.smk"


# The workflow of a study that is over its budget does not start. Counting what it needs takes a minute at the sizes of
# ImageNet: a dry run, which has no `onstart`, judges by the counts that are kept.
from mar.planning import plan, remaining, slots
from mar.runtime import folders

try:
    COUNTED = plan.check(STUDY, ROOT, count=False)
except ValueError as error:
    raise WorkflowError(str(error))
if not COUNTED:
    print(
        f"budget and GPU of {STUDY.study} are checked when it starts, or by `mar plan --study {STUDY.study}`",
        file=sys.stderr,
        flush=True,
    )
if MACHINE.get("launcher") == "slurm":
    limits = {name: asked(name)["runtime"] for name in slots.WHOLE}
    try:
        for said in slots.too_long(STUDY, ROOT, limits):
            print(said, file=sys.stderr, flush=True)
    except ValueError as error:  # a damaged file is told by the stage that reads it
        print(f"no comparison of stages with their slots: {error}", file=sys.stderr)


include: "workflow/rules/data.smk"
include: "workflow/rules/assets.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/drill.smk"


# Snakemake ignores resources that a profile sets for a rule that does not exist: a misspelt rule is refused here.
try:
    for name in workflow.resource_settings.overwrite_resources or {}:
        machine.known("set-resources", name, {rule.name for rule in workflow.rules})
except ValueError as error:
    raise WorkflowError(str(error))


# What a run has to make, so that `mar launch` can tell how far it is: Snakemake counts steps, whatever they take.
onstart:
    # A second call would delete outputs of the first, which it takes for its own to make.
    try:
        folders.hold(layout.workflow_lock(ROOT), "snakemake")
        plan.check(STUDY, ROOT)
    except (ValueError, OSError) as error:
        raise WorkflowError(str(error))
    make_room()
    if not workflow.overwrite_configfiles:
        print(f"study {STUDY.study}, as no --configfile names another", flush=True)
    try:
        remaining.begin(ROOT, outputs_of(workflow.dag.needrun_jobs()))
    except (
        Exception
    ) as error:  # Snakemake promises no such list, and no job needs it
        print(f"no estimate of the time that is left: {error}", flush=True)


# With keep-going one failure is told among hundreds of lines, so that all are told again at the end.
onerror:
    print(closing_list(), flush=True)


rule all:
    default_target: True
    input:
        tables=TABLES,
        figures=FIGURES,
        aliases=ALIASES,
        page=PAGE,
