# Images to tokens.


rule tokenizer:
    input:
        data=rules.prepare.output.manifest,
        imported=tokenizer_weights,
    output:
        weights=f"{ROOT}/tokenizers/{{tokenizer}}/model.safetensors",
        config=f"{ROOT}/tokenizers/{{tokenizer}}/config.json",
    log:
        f"{ROOT}/logs/tokenizer/{{tokenizer}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/tokenizer/{{tokenizer}}",
        recipe=tokenizer_recipe,
    shell:
        launch("tokenizer --study {params.study} --tokenizer {wildcards.tokenizer}")


# Apart from the training, so that a new classifier measures again and trains nothing again.
rule rfid:
    input:
        weights=rules.tokenizer.output.weights,
        real=REAL[0],
        heldout=f"{ROOT}/features/{STUDY.metrics.extractors[0]}/heldout/manifest.json",
        judge=JUDGE,
    output:
        rfid=f"{ROOT}/tokenizers/{{tokenizer}}/rfid.json",
    log:
        f"{ROOT}/logs/rfid/{{tokenizer}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/rfid/{{tokenizer}}",
        recipe=slices.metrics_slice(STUDY),
    shell:
        launch("rfid --study {params.study} --tokenizer {wildcards.tokenizer}")


rule encode:
    input:
        data=rules.prepare.output.manifest,
        weights=rules.tokenizer.output.weights,
    output:
        train=f"{ROOT}/tokens/{{tokenizer}}/train/manifest.json",
        heldout=f"{ROOT}/tokens/{{tokenizer}}/heldout/manifest.json",
    log:
        f"{ROOT}/logs/encode/{{tokenizer}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/encode/{{tokenizer}}",
        recipe=tokenizer_recipe,
    shell:
        launch("encode --study {params.study} --tokenizer {wildcards.tokenizer}")
