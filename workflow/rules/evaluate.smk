# Images to numbers.


rule evaluate:
    input:
        samples=rules.sample.output.manifest,
        classifier=rules.classifier.output.weights,
        reference=rules.reference.output.train,
    output:
        features=f"{ROOT}/features/{{variant}}/seed{{seed}}/{{setting}}.npz",
        metrics=f"{ROOT}/metrics/{{variant}}/seed{{seed}}/{{setting}}.json",
    log:
        f"{ROOT}/logs/evaluate/{{variant}}/seed{{seed}}/{{setting}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/evaluate/{{variant}}/seed{{seed}}/{{setting}}",
        recipe=studies.metrics_slice(STUDY),
    shell:
        launch(
            "evaluate --study {params.study} --variant {wildcards.variant} --seed {wildcards.seed}"
            " --setting {wildcards.setting}"
        )
