# Weights to images, and the seconds that they take.


# Points of the grid are no outputs: a sweep that was stopped goes on from them.
rule sweep:
    input:
        record=timed_run,
        tokenizer=variant_tokenizer,
        judge=JUDGE,
        real=REAL[0],
    output:
        sweep=f"{ROOT}/sweeps/{{variant}}/{{setting}}.json",
    log:
        f"{ROOT}/logs/sweep/{{variant}}/{{setting}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/sweep/{{variant}}/{{setting}}",
        recipe=sweep_recipe,
    shell:
        launch(
            "sweep --study {params.study} --variant {wildcards.variant} --setting {wildcards.setting}"
        )


rule sample:
    input:
        weights=rules.train.output.weights,
        record=rules.train.output.record,
        tokenizer=variant_tokenizer,
        chosen=chosen,
    output:
        manifest=f"{ROOT}/samples/{{variant}}/seed{{seed}}/{{setting}}/manifest.json",
    log:
        f"{ROOT}/logs/sample/{{variant}}/seed{{seed}}/{{setting}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/sample/{{variant}}/seed{{seed}}/{{setting}}",
        recipe=sample_recipe,
    shell:
        launch(
            "sample --study {params.study} --variant {wildcards.variant} --seed {wildcards.seed}"
            " --setting {wildcards.setting}"
        )


rule speed:
    input:
        record=timed_run,
        tokenizer=variant_tokenizer,
        chosen=timed_chosen,
    output:
        speed=f"{ROOT}/speed/{{variant}}.json",
    log:
        f"{ROOT}/logs/speed/{{variant}}.log",
    conda:
        "../../environment.yml"
    threads: workflow.cores or 1  # all of them, so that nothing runs beside it
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/speed/{{variant}}",
        recipe=speed_recipe,
    shell:
        launch("speed --study {params.study} --variant {wildcards.variant}")
