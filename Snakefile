# Table of contents: a study file in, every table, figure and verdict out.
#   snakemake all                                    config/digits.yaml
#   snakemake all --configfile config/demo.yaml      another study
#   snakemake figures/tradeoff.pdf                   one product
from snakemake.utils import min_version

min_version("9.17")


# One study a call: a second configfile would be merged into the first, key by key.
if "study" not in config:

    configfile: "config/digits.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        tables=TABLES,
        figures=FIGURES,
        aliases=ALIASES,
        claims=f"{ROOT}/claims.json",
        report=f"{ROOT}/report.html",
        runs=f"{ROOT}/mlflow.stamp",
