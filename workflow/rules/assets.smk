# Published weights, downloaded and imported once for all studies. Weights that a user imported stay as they are.


# This runs on the machine of the workflow, since nodes of a cluster often have no network.
rule import_weights:
    output:
        weights=layout.import_weights(ASSETS, "{asset}"),
        record=layout.import_record(ASSETS, "{asset}"),
    log:
        layout.log(ASSETS, "{asset}"),
    wildcard_constraints:
        asset=names(name for name in PUBLISHED if not by_hand(name)),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        format=asset_format,
    shell:
        "mar --threads {threads} import {params.format:q} --as {wildcards.asset:q} 2>&1 | tee {log:q}"


# Published files that are used as they are: weights of extractors, and references of real images.
rule fetch:
    output:
        layout.downloads(ASSETS) / "{published}",
    log:
        layout.log(ASSETS, "{published}"),
    wildcard_constraints:
        published=names(
            row.path(ASSETS).name
            for row in PUBLISHED.values()
            if row.format == "reference"
        ),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        name=published_name,
    shell:
        "mar --threads {threads} fetch {params.name:q} 2>&1 | tee {log:q}"
