# Images, and the network whose features judge them.


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
        recipe=studies.data_slice(STUDY),
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
        recipe=studies.classifier_slice(STUDY),
    shell:
        launch("classifier --study {params.study}")


rule reference:
    input:
        data=rules.prepare.output.manifest,
        classifier=rules.classifier.output.weights,
    output:
        train=f"{ROOT}/features/train.npz",
        heldout=f"{ROOT}/features/heldout.npz",
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
        recipe=studies.reference_slice(STUDY),
    shell:
        launch("reference --study {params.study}")
