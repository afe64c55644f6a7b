# Published weights: fetched and imported once for all studies. What was imported by hand is taken as it is.


# On the machine that runs the workflow: nodes of a cluster often have no network.
rule import_weights:
    output:
        weights=f"{ASSETS}/{{asset}}.safetensors",
        record=f"{ASSETS}/{{asset}}.json",
    log:
        f"{ASSETS}/logs/{{asset}}.log",
    wildcard_constraints:
        asset=names(name for name in PUBLISHED if not by_hand(name)),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        format=asset_format,
    shell:
        "mar --threads {threads} import {params.format} --as {wildcards.asset} 2>&1 | tee {log}"
