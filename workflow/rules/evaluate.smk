# From images to features, to statistics of the features, and to metrics.


# The files of the features are no outputs, so that a stopped run resumes from them.
rule features_real:
    input:
        data=rules.prepare.output.manifest,
        weights=judge_weights,
        reference=real_files,
    output:
        manifest=layout.features_manifest(ROOT, "{extractor}", "{split}"),
    log:
        layout.log(ROOT, "features", "{extractor}", "{split}"),
    threads: waiting("features_real")
    resources:
        **launched("features_real"),
    params:
        study=STUDY_FILE,
        job=job("features", "{extractor}", "{split}"),
        recipe=features_recipe,
    shell:
        launch(
            "features", extractor="{wildcards.extractor:q}", set="{wildcards.split:q}"
        )


rule features:
    input:
        samples=rules.sample.output.manifest,
        data=rules.prepare.output.manifest,
        weights=judge_weights,
    output:
        manifest=layout.features_manifest(ROOT, "{extractor}", SET),
    log:
        layout.log(ROOT, "features", "{extractor}", SET),
    priority: published_first
    threads: waiting("features")
    resources:
        **launched("features"),
    params:
        study=STUDY_FILE,
        job=job("features", "{extractor}", SET),
        recipe=features_recipe,
    shell:
        launch(
            "features",
            extractor="{wildcards.extractor:q}",
            set=layout.sample_set(*ONE_SET.values()),
        )


# A set that others drew asks for what a sample set asks for. The input is no file of images, whose path may have any
# letter, but the note of which file it is.
rule features_given:
    input:
        state=layout.given(ROOT, "{given}"),
        data=rules.prepare.output.manifest,
        weights=judge_weights,
    output:
        manifest=layout.features_manifest(ROOT, "{extractor}", GIVEN_SET),
    log:
        layout.log(ROOT, "features", "{extractor}", GIVEN_SET),
    threads: waiting("features")
    resources:
        **launched("features"),
    params:
        study=STUDY_FILE,
        job=job("features", "{extractor}", GIVEN_SET),
        recipe=features_recipe,
    shell:
        launch(
            "features",
            extractor="{wildcards.extractor:q}",
            set=layout.given_set("{wildcards.given:q}"),
        )


rule statistics:
    input:
        features=layout.features_manifest(ROOT, "{extractor}", "{set}"),
    output:
        statistics=layout.statistics(ROOT, "{extractor}", "{set}"),
    log:
        layout.log(ROOT, "statistics", "{extractor}", "{set}"),
    priority: published_first
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
    shell:
        line("statistics", extractor="{wildcards.extractor:q}", set="{wildcards.set:q}")


rule reference:
    input:
        heldout=heldout_features(),
        real=REAL,
    output:
        floor=layout.reference_metrics(ROOT),
    log:
        layout.log(ROOT, "reference"),
    threads: waiting("reference")
    resources:
        **launched("reference"),
    params:
        study=STUDY_FILE,
        job=job("reference"),
        recipe=stage_keys.reference_key(STUDY),
    shell:
        launch("reference")


rule evaluate:
    input:
        statistics=set_statistics,
        real=REAL,
    output:
        metrics=layout.metrics(ROOT, SET),
    log:
        layout.log(ROOT, "evaluate", SET),
    priority: published_first
    threads: waiting("evaluate")
    resources:
        **launched("evaluate"),
    params:
        study=STUDY_FILE,
        job=job("evaluate", SET),
        recipe=stage_keys.metrics_key(STUDY),
    shell:
        launch("evaluate", **ONE_SET)


rule evaluate_given:
    input:
        statistics=given_statistics,
        real=REAL,
    output:
        metrics=layout.metrics(ROOT, GIVEN_SET),
    log:
        layout.log(ROOT, "evaluate", GIVEN_SET),
    threads: waiting("evaluate")
    resources:
        **launched("evaluate"),
    params:
        study=STUDY_FILE,
        job=job("evaluate", GIVEN_SET),
        recipe=stage_keys.metrics_key(STUDY),
    shell:
        launch("evaluate", given="{wildcards.given:q}")
