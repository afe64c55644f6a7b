# `snakemake drill --configfile ...` runs each distinct shape of network once at its true size on generated images.


# Each shape has a process of its own, so that its memory is freed at the end; finished shapes are kept.
rule drill_shape:
    output:
        record=layout.drill_shape(ROOT, "{shape}"),
    log:
        layout.log(ROOT, "drill", "{shape}"),
    wildcard_constraints:
        shape=names(SHAPES),
    threads: workflow.cores or 1  # all threads, so that no two shapes run at once
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=shape_recipe,
    shell:
        line("drill", shape="{wildcards.shape:q}", recipe="{params.recipe:q}")


rule drill:
    input:
        shapes=expand(rules.drill_shape.output.record, shape=SHAPES),
    output:
        data=layout.drill_table(ROOT, "json"),
        csv=layout.drill_table(ROOT, "csv"),
        markdown=layout.drill_table(ROOT, "md"),
    log:
        layout.log(ROOT, "drill"),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
    shell:
        line("drill")
