# From weights to images, and the seconds per image.


# The points of the grid are no outputs, so that a stopped sweep resumes from them.
rule sweep:
    input:
        record=timed_run,
        tokenizer=variant_tokenizer,
        judge=JUDGE,
        real=REAL[0],
    output:
        sweep=layout.sweep(ROOT, "{variant}", "{setting}"),
    log:
        layout.log(ROOT, "sweep", "{variant}", "{setting}"),
    priority: published_first
    threads: waiting("sweep")
    resources:
        **launched("sweep"),
    params:
        study=STUDY_FILE,
        job=job("sweep", "{variant}", "{setting}"),
        recipe=sweep_recipe,
    shell:
        launch(
            "sweep", variant="{wildcards.variant:q}", setting="{wildcards.setting:q}"
        )


rule sample:
    input:
        weights=layout.run(ROOT, "{variant}", "{seed}") / layout.AVERAGE,
        record=layout.run_record(ROOT, "{variant}", "{seed}"),
        tokenizer=variant_tokenizer,
        chosen=chosen,
        rejecter=sample_rejecter,
    output:
        manifest=layout.sample_manifest(ROOT, SET),
    log:
        layout.log(ROOT, "sample", SET),
    priority: published_first
    threads: waiting("sample")
    resources:
        **launched("sample"),
    params:
        study=STUDY_FILE,
        job=job("sample", SET),
        recipe=sample_recipe,
    shell:
        launch("sample", **ONE_SET)


# The averages that a training kept are no outputs of it, since Snakemake deletes outputs before a job.
rule learning:
    input:
        record=layout.run_record(ROOT, "{variant}", "{seed}"),
        files=learning_inputs,
    output:
        record=layout.learning(ROOT, "{variant}", "{seed}"),
    log:
        layout.log(ROOT, "learning", layout.run_name("{variant}", "{seed}")),
    threads: waiting("learning")
    resources:
        **launched("learning"),
    params:
        study=STUDY_FILE,
        job=job("learning", layout.run_name("{variant}", "{seed}")),
        recipe=learning_recipe,
    shell:
        launch("learning", variant="{wildcards.variant:q}", seed="{wildcards.seed:q}")


# Pictures are no outputs but the record that lists them, so that a stopped job resumes from them.
rule tasks:
    input:
        record=layout.run_record(ROOT, "{variant}", "{seed}"),
        tokenizer=variant_tokenizer,
        chosen=task_chosen,
        data=rules.prepare.output.manifest,
        judge=JUDGE,
        real=REAL[0],
        distance=DISTANCE,
    output:
        record=layout.tasks(ROOT, "{variant}", "{seed}"),
    log:
        layout.log(ROOT, "tasks", layout.run_name("{variant}", "{seed}")),
    priority: published_first
    threads: waiting("tasks")
    resources:
        **launched("tasks"),
    params:
        study=STUDY_FILE,
        job=job("tasks", layout.run_name("{variant}", "{seed}")),
        recipe=tasks_recipe,
    shell:
        launch("tasks", variant="{wildcards.variant:q}", seed="{wildcards.seed:q}")


rule speed:
    input:
        record=timed_run,
        tokenizer=variant_tokenizer,
        chosen=timed_chosen,
        rejecter=timed_rejecter,
    output:
        speed=layout.speed(ROOT, "{variant}"),
    log:
        layout.log(ROOT, "speed", "{variant}"),
    priority: published_first
    threads: waiting("speed", workflow.cores or 1)  # all threads, so that nothing else runs during the timing
    resources:
        **launched("speed"),
    params:
        study=STUDY_FILE,
        job=job("speed", "{variant}"),
        recipe=speed_recipe,
    shell:
        launch("speed", variant="{wildcards.variant:q}")
