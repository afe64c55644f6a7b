# Tokens to weights. Checkpoints are no outputs: Snakemake deletes outputs before a job, and checkpoints must stay.

# A variant that names nodes, GPUs and hours gets them on a cluster; the others get what the site's profile says.
SITE = workflow.resource_settings.default_resources or {}
ON_SLURM = "launcher" in SITE and SITE["launcher"].raw == "slurm"


def asked(name, key, unit=1):
    """Resource `name` of a training: what its variant asks for, else the default of the site."""
    default = SITE[name].raw if name in SITE else 0

    def value(wildcards):
        resources = STUDY.variants[wildcards.variant].resources
        return default if resources is None else int(getattr(resources, key) * unit)

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


rule train:
    input:
        tokens=variant_tokens,
    output:
        weights=f"{ROOT}/runs/{{variant}}/seed{{seed}}/ema.safetensors",
        record=f"{ROOT}/runs/{{variant}}/seed{{seed}}/run.json",
    log:
        f"{ROOT}/logs/train/{{variant}}/seed{{seed}}.log",
    conda:
        "../../environment.yml"
    # Two trainings side by side beat one with two threads, and equal thread counts give equal weights anywhere.
    threads: 1
    resources:
        **TRAIN_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/train/{{variant}}/seed{{seed}}",
        recipe=train_recipe,
    shell:
        launch(
            "train --study {params.study} --variant {wildcards.variant} --seed {wildcards.seed}"
        )
