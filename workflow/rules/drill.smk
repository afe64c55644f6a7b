# Each distinct shape of the study once at its true size, on generated images: `snakemake drill --configfile ...`.


# A process for each shape, so that memory is given back in between; what is done is kept.
rule drill_shape:
    output:
        record=f"{ROOT}/drill/shapes/{{shape}}.json",
    log:
        f"{ROOT}/logs/drill/{{shape}}.log",
    wildcard_constraints:
        shape=names(SHAPES),
    conda:
        "../../environment.yml"
    threads: workflow.cores or 1  # all of them, so that one shape runs after the other
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=shape_recipe,
    shell:
        "mar --threads {threads} drill --study {params.study} --shape {wildcards.shape} --recipe {params.recipe:q}"
        " 2>&1 | tee {log}"


rule drill:
    input:
        shapes=expand(rules.drill_shape.output.record, shape=SHAPES),
    output:
        data=f"{ROOT}/drill/drill.json",
        csv=f"{ROOT}/drill/drill.csv",
        markdown=f"{ROOT}/drill/drill.md",
    log:
        f"{ROOT}/logs/drill.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
    shell:
        "mar drill --study {params.study} 2>&1 | tee {log}"
