# From tokens to weights. Checkpoints are no outputs, since Snakemake deletes outputs before a job.


rule train:
    input:
        tokens=variant_tokens,
        imported=variant_weights,
        # `ancient`: other numbers of a pilot, or a tokenizer measured again, train nothing again.
        gate=ancient(layout.gate(ROOT)) if STUDY.gate else [],
    output:
        weights=layout.run(ROOT, "{variant}", "{seed}") / layout.AVERAGE,
        record=layout.run_record(ROOT, "{variant}", "{seed}"),
    log:
        layout.log(ROOT, "train", layout.run_name("{variant}", "{seed}")),
    conda:
        "../../environment.yml"
    # Two trainings at once are faster than one with two threads, and equal numbers of threads give equal weights.
    threads: 1
    resources:
        **TRAIN_RESOURCES,
    params:
        study=STUDY_FILE,
        job=job("train", layout.run_name("{variant}", "{seed}")),
        recipe=train_recipe,
    shell:
        launch("train", variant="{wildcards.variant}", seed="{wildcards.seed}")
