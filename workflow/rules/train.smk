# Tokens to weights. Checkpoints are no outputs: Snakemake deletes outputs before a job, and checkpoints must stay.


rule train:
    input:
        tokens=variant_tokens,
        imported=variant_weights,
    output:
        weights=layout.run(ROOT, "{variant}", "{seed}") / layout.AVERAGE,
        record=layout.run_record(ROOT, "{variant}", "{seed}"),
    log:
        layout.log(ROOT, "train", layout.run_name("{variant}", "{seed}")),
    conda:
        "../../environment.yml"
    # Two trainings side by side beat one with two threads, and equal thread counts give equal weights anywhere.
    threads: 1
    resources:
        **TRAIN_RESOURCES,
    params:
        study=STUDY_FILE,
        job=job("train", layout.run_name("{variant}", "{seed}")),
        recipe=train_recipe,
    shell:
        launch("train", variant="{wildcards.variant}", seed="{wildcards.seed}")
