# The images, and the study's own classifier, whose features judge them.


rule prepare:
    output:
        manifest=layout.data_manifest(ROOT),
    log:
        layout.log(ROOT, "prepare"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=stage_keys.data_key(STUDY),
    shell:
        line("prepare")


rule classifier:
    input:
        data=rules.prepare.output.manifest,
    output:
        weights=layout.classifier(ROOT) / layout.WEIGHTS,
        record=layout.classifier(ROOT) / layout.CLASSIFIER,
    log:
        layout.log(ROOT, "classifier"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=job("classifier"),
        recipe=stage_keys.classifier_key(STUDY) if CLASSIFIER else "",
    shell:
        launch("classifier")
