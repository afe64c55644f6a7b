# From images to tokens.


# Published weights, and pixels, need no GPU and no queue: one process here writes them.
rule install_tokenizer:
    input:
        data=rules.prepare.output.manifest,
        imported=tokenizer_weights,
    output:
        weights=layout.tokenizer_weights(ROOT, "{tokenizer}"),
        config=layout.tokenizer(ROOT, "{tokenizer}") / layout.TOKENIZER,
    log:
        layout.log(ROOT, "tokenizer", "{tokenizer}"),
    wildcard_constraints:
        tokenizer=names(set(TOKENIZERS) - LEARNED),
    priority: 10
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        job=job("tokenizer", "{tokenizer}"),
        recipe=tokenizer_recipe,
    shell:
        line("tokenizer", tokenizer="{wildcards.tokenizer:q}")


rule tokenizer:
    input:
        data=rules.prepare.output.manifest,
    output:
        weights=layout.tokenizer_weights(ROOT, "{tokenizer}"),
        config=layout.tokenizer(ROOT, "{tokenizer}") / layout.TOKENIZER,
    log:
        layout.log(ROOT, "tokenizer", "{tokenizer}"),
    wildcard_constraints:
        tokenizer=names(LEARNED),
    threads: waiting("tokenizer")
    resources:
        **launched("tokenizer"),
    params:
        study=STUDY_FILE,
        job=job("tokenizer", "{tokenizer}"),
        recipe=tokenizer_recipe,
    shell:
        launch("tokenizer", tokenizer="{wildcards.tokenizer:q}")


# This is a rule of its own, so that a new classifier changes the metrics of a tokenizer without training it again.
rule rfid:
    input:
        weights=layout.tokenizer_weights(ROOT, "{tokenizer}"),
        real=REAL[0],
        heldout=heldout_features()[0],
        judge=JUDGE,
    output:
        rfid=layout.rfid(ROOT, "{tokenizer}"),
    log:
        layout.log(ROOT, "rfid", "{tokenizer}"),
    threads: waiting("rfid")
    resources:
        **launched("rfid"),
    params:
        study=STUDY_FILE,
        job=job("rfid", "{tokenizer}"),
        recipe=stage_keys.rfid_key(STUDY),
    shell:
        launch("rfid", tokenizer="{wildcards.tokenizer:q}")


# Only a study with a section `gate` has this job: what the tokenizers lose, before anything is trained on them.
rule gate:
    input:
        rfid=gate_inputs,
    output:
        gate=layout.gate(ROOT),
    log:
        layout.log(ROOT, "gate"),
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
        weights=layout.tokenizer_weights(ROOT, "{tokenizer}"),
    output:
        train=layout.token_manifest(ROOT, "{tokenizer}", "train"),
        heldout=layout.token_manifest(ROOT, "{tokenizer}", "heldout"),
    log:
        layout.log(ROOT, "encode", "{tokenizer}"),
    threads: waiting("encode")
    resources:
        **launched("encode"),
    params:
        study=STUDY_FILE,
        job=job("encode", "{tokenizer}"),
        recipe=tokenizer_recipe,
    shell:
        launch("encode", tokenizer="{wildcards.tokenizer:q}")
