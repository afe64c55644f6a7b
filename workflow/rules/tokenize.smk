# From images to tokens.


rule tokenizer:
    input:
        data=rules.prepare.output.manifest,
        imported=tokenizer_weights,
    output:
        weights=layout.tokenizer_weights(ROOT, "{tokenizer}"),
        config=layout.tokenizer(ROOT, "{tokenizer}") / layout.TOKENIZER,
    log:
        layout.log(ROOT, "tokenizer", "{tokenizer}"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=job("tokenizer", "{tokenizer}"),
        recipe=tokenizer_recipe,
    shell:
        launch("tokenizer", tokenizer="{wildcards.tokenizer}")


# This is a rule of its own, so that a new classifier changes the metrics of a tokenizer without training it again.
rule rfid:
    input:
        weights=rules.tokenizer.output.weights,
        real=REAL[0],
        heldout=heldout_features()[0],
        judge=JUDGE,
    output:
        rfid=layout.rfid(ROOT, "{tokenizer}"),
    log:
        layout.log(ROOT, "rfid", "{tokenizer}"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=job("rfid", "{tokenizer}"),
        recipe=stage_keys.rfid_key(STUDY),
    shell:
        launch("rfid", tokenizer="{wildcards.tokenizer}")


# Only a study with a section `gate` has this job: what the tokenizers lose, before anything is trained on them.
rule gate:
    input:
        rfid=gate_inputs,
    output:
        gate=layout.gate(ROOT),
    log:
        layout.log(ROOT, "gate"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=stage_keys.gate_key(STUDY),
    shell:
        line("gate")


rule encode:
    input:
        data=rules.prepare.output.manifest,
        weights=rules.tokenizer.output.weights,
    output:
        train=layout.token_manifest(ROOT, "{tokenizer}", "train"),
        heldout=layout.token_manifest(ROOT, "{tokenizer}", "heldout"),
    log:
        layout.log(ROOT, "encode", "{tokenizer}"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **LAUNCH_RESOURCES,
    params:
        study=STUDY_FILE,
        job=job("encode", "{tokenizer}"),
        recipe=tokenizer_recipe,
    shell:
        launch("encode", tokenizer="{wildcards.tokenizer}")
