# The door to workflow/Snakefile, which other workflows use as a module: config/README.md.
#   snakemake all                                    config/digits.yaml
#   snakemake all --configfile config/demo.yaml      another study
#   snakemake figures/tradeoff.pdf --configfile config/demo.yaml      one product
#   snakemake drill --configfile config/imagenet256.yaml      each shape of network once on generated images

# Snakemake merges a second configfile into the first, so this one is read only where no other study is named.
if not workflow.overwrite_configfiles and "study_file" not in config:

    configfile: "config/digits.yaml"


include: "workflow/Snakefile"
include: "workflow/rules/messages.smk"


workflow.default_target = "all"  # an included file sets none


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
    wake_when_a_job_ends()
    begin_fork_server()
    if not workflow.overwrite_configfiles and "study_file" not in config:
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
