# Images to features, features to statistics, both to numbers: three steps, three files.


# Parts are no outputs: a run that was stopped goes on from them.
rule features_real:
    input:
        data=rules.prepare.output.manifest,
        weights=judge_weights,
        reference=real_files,
    output:
        manifest=f"{ROOT}/features/{{extractor}}/{{split}}/manifest.json",
    log:
        f"{ROOT}/logs/features/{{extractor}}/{{split}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/features/{{extractor}}/{{split}}",
        recipe=features_recipe,
    shell:
        launch(
            "features --study {params.study} --extractor {wildcards.extractor} --set {wildcards.split}"
        )


rule features:
    input:
        samples=rules.sample.output.manifest,
        data=rules.prepare.output.manifest,
        weights=judge_weights,
    output:
        manifest=f"{ROOT}/features/{{extractor}}/{{variant}}/seed{{seed}}/{{setting}}/manifest.json",
    log:
        f"{ROOT}/logs/features/{{extractor}}/{{variant}}/seed{{seed}}/{{setting}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/features/{{extractor}}/{{variant}}/seed{{seed}}/{{setting}}",
        recipe=features_recipe,
    shell:
        launch(
            "features --study {params.study} --extractor {wildcards.extractor}"
            " --set {wildcards.variant}/seed{wildcards.seed}/{wildcards.setting}"
        )


rule statistics:
    input:
        features=f"{ROOT}/features/{{extractor}}/{{set}}/manifest.json",
    output:
        statistics=f"{ROOT}/statistics/{{extractor}}/{{set}}.npz",
    log:
        f"{ROOT}/logs/statistics/{{extractor}}/{{set}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
    shell:
        "mar --threads {threads} statistics --study {params.study} --extractor {wildcards.extractor}"
        " --set {wildcards.set} 2>&1 | tee {log}"


rule reference:
    input:
        heldout=judged_by("features/{extractor}/heldout/manifest.json"),
        real=REAL,
    output:
        floor=f"{ROOT}/metrics/reference.json",
    log:
        f"{ROOT}/logs/reference.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/reference",
        recipe=slices.reference_slice(STUDY),
    shell:
        launch("reference --study {params.study}")


rule evaluate:
    input:
        statistics=judged_by(
            "statistics/{extractor}/{{variant}}/seed{{seed}}/{{setting}}.npz"
        ),
        real=REAL,
    output:
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
        recipe=slices.metrics_slice(STUDY),
    shell:
        launch(
            "evaluate --study {params.study} --variant {wildcards.variant} --seed {wildcards.seed}"
            " --setting {wildcards.setting}"
        )
