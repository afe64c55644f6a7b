# Images, and the study's own network that judges them.


rule prepare:
    output:
        manifest=f"{ROOT}/data/manifest.json",
    log:
        f"{ROOT}/logs/prepare.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=slices.data_slice(STUDY),
    shell:
        "mar --threads {threads} prepare --study {params.study} 2>&1 | tee {log}"


rule classifier:
    input:
        data=rules.prepare.output.manifest,
    output:
        weights=f"{ROOT}/classifier/model.safetensors",
        record=f"{ROOT}/classifier/classifier.json",
    log:
        f"{ROOT}/logs/classifier.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/classifier",
        recipe=slices.classifier_slice(STUDY) if CLASSIFIER else "",
    shell:
        launch("classifier --study {params.study}")
