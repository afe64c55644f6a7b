# Tokens to weights. Checkpoints are no outputs: Snakemake deletes outputs before a job, and checkpoints must stay.


rule train:
    input:
        tokens=variant_tokens,
        imported=variant_weights,
    output:
        weights=f"{ROOT}/runs/{{variant}}/seed{{seed}}/ema.safetensors",
        record=f"{ROOT}/runs/{{variant}}/seed{{seed}}/run.json",
    log:
        f"{ROOT}/logs/train/{{variant}}/seed{{seed}}.log",
    conda:
        "../../environment.yml"
    # Two trainings side by side beat one with two threads, and equal thread counts give equal weights anywhere.
    threads: 1
    resources:
        **TRAIN_RESOURCES,
    params:
        study=STUDY_FILE,
        job=f"{ROOT}/jobs/train/{{variant}}/seed{{seed}}",
        recipe=train_recipe,
    shell:
        launch(
            "train --study {params.study} --variant {wildcards.variant} --seed {wildcards.seed}"
        )
