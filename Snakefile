# Table of contents: a study file in, every table, figure and verdict out.
#   snakemake all                                    config/digits.yaml
#   snakemake all --configfile config/demo.yaml      another study
#   snakemake figures/tradeoff.pdf                   one product
#   snakemake drill --configfile config/imagenet256.yaml      each shape once on generated images, before the real run
from snakemake.utils import min_version

min_version("9.17")


# One study a call: a second configfile would be merged into the first, key by key.
if "study" not in config:

    configfile: "config/digits.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


# A study over its budget does not start.
from mar.planning import plan

try:
    plan.check(STUDY, ROOT)
except ValueError as error:
    raise WorkflowError(str(error))


include: "workflow/rules/data.smk"
include: "workflow/rules/assets.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/drill.smk"


# A rule of another name in a profile has no effect: nobody wants to learn that from a training on one node.
try:
    for name in workflow.resource_settings.overwrite_resources or {}:
        machine.known("set-resources", name, {rule.name for rule in workflow.rules})
except ValueError as error:
    raise WorkflowError(str(error))


rule all:
    default_target: True
    input:
        tables=TABLES,
        figures=FIGURES,
        aliases=ALIASES,
        claims=layout.claims(ROOT),
        report=layout.report(ROOT),
        runs=layout.tracked(ROOT),
