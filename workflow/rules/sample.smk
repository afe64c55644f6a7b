# Weights to images, and the seconds that they take.


rule sample:
    input:
        weights=rules.train.output.weights,
        record=rules.train.output.record,
        tokenizer=variant_tokenizer,
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
