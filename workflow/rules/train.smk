# From tokens to weights. Checkpoints are no outputs, since Snakemake deletes outputs before a job.


# Published weights need no GPU and no queue: one process here copies them.
rule install_run:
    input:
        tokens=variant_tokens,
        imported=variant_weights,
    output:
        weights=layout.run(ROOT, "{variant}", "{seed}") / layout.AVERAGE,
        record=layout.run_record(ROOT, "{variant}", "{seed}"),
    log:
        layout.log(ROOT, "train", layout.run_name("{variant}", "{seed}")),
    wildcard_constraints:
        variant=names(name for name, v in TRAINED.items() if v.pretrained),
    priority: 10
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        job=job("train", layout.run_name("{variant}", "{seed}")),
        recipe=train_recipe,
    shell:
        line("train", variant="{wildcards.variant:q}", seed="{wildcards.seed:q}")


rule train:
    input:
        tokens=variant_tokens,
        # `ancient`: other numbers of a pilot, or a tokenizer measured again, train nothing again.
        gate=ancient(layout.gate(ROOT)) if STUDY.gate else [],
    output:
        weights=layout.run(ROOT, "{variant}", "{seed}") / layout.AVERAGE,
        record=layout.run_record(ROOT, "{variant}", "{seed}"),
    log:
        layout.log(ROOT, "train", layout.run_name("{variant}", "{seed}")),
    wildcard_constraints:
        variant=names(name for name, v in TRAINED.items() if not v.pretrained),
    # Two trainings at once are faster than one with two threads, and equal numbers of threads give equal weights.
    threads: waiting("train")
    resources:
        **{name: of_training(name) for name in machine.LAUNCH},
        **{TRAININGS: 1},
    params:
        study=STUDY_FILE,
        job=job("train", layout.run_name("{variant}", "{seed}")),
        recipe=train_recipe,
    shell:
        launch("train", variant="{wildcards.variant:q}", seed="{wildcards.seed:q}")
