# Numbers to tables, figures, verdicts and pages. The module that draws a product is an input of its rule.


rule table:
    input:
        metrics=METRICS,
        reference=rules.reference.output.floor,
        files=table_inputs,
        paper=table_paper,
        code=[
            "mar/tables.py",
            "mar/listing.py",
            "mar/variance.py",
            "mar/modes.py",
            "mar/typeset.py",
            "mar/estimates.py",
            "mar/results.py",
        ],
    output:
        csv=report(
            f"{ROOT}/tables/{{table}}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        md=f"{ROOT}/tables/{{table}}.md",
        tex=f"{ROOT}/tables/{{table}}.tex",
    log:
        f"{ROOT}/logs/table/{{table}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=table_recipe,
    shell:
        "mar --threads {threads} table --study {params.study} --name {wildcards.table} 2>&1 | tee {log}"


rule figure:
    input:
        files=figure_inputs,
        code=[
            "mar/figures.py",
            "mar/curves.py",
            "mar/heatmaps.py",
            "mar/estimates.py",
            "mar/results.py",
            "mar/track.py",
        ],
    output:
        pdf=f"{FIGURE_ROOT}/{{figure}}.pdf",
        png=report(
            f"{FIGURE_ROOT}/{{figure}}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        csv=f"{FIGURE_ROOT}/{{figure}}.csv",
    log:
        f"{ROOT}/logs/figure/{{figure}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        out=subpath(output.pdf, parent=True),
        recipe=figure_recipe,
    shell:
        "mar --threads {threads} figure --study {params.study} --name {wildcards.figure} --out {params.out}"
        " 2>&1 | tee {log}"


# figures/tradeoff.pdf is the figure of the configured study.
rule alias:
    input:
        pdf=f"{FIGURE_ROOT}/{{figure}}.pdf",
        png=f"{FIGURE_ROOT}/{{figure}}.png",
        csv=f"{FIGURE_ROOT}/{{figure}}.csv",
    output:
        pdf="figures/{figure}.pdf",
        png="figures/{figure}.png",
        csv="figures/{figure}.csv",
    log:
        f"{ROOT}/logs/alias/{{figure}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        out=subpath(output.pdf, parent=True),
    shell:
        "cp {input.pdf} {input.png} {input.csv} {params.out} 2>&1 | tee {log}"


rule claims:
    input:
        metrics=METRICS,
        reference=rules.reference.output.floor,
        speed=SPEEDS,
        sweeps=SWEEPS,
        runs=RUNS,
        claims="config/claims.yaml",
        paper=PAPER,
        code=[
            "mar/claims.py",
            "mar/verdicts.py",
            "mar/caveats.py",
            "mar/estimates.py",
            "mar/results.py",
            "mar/tables.py",
        ],
    output:
        claims=f"{ROOT}/claims.json",
    log:
        f"{ROOT}/logs/claims.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=slices.claims_slice(STUDY),
    shell:
        "mar --threads {threads} claims --study {params.study} --claims {input.claims} 2>&1 | tee {log}"


rule report:
    input:
        tables=TABLES,
        figures=FIGURES,
        samples=f"{FIGURE_ROOT}/samples.png",
        claims=rules.claims.output.claims,
        metrics=METRICS,
        reference=rules.reference.output.floor,
        speed=SPEEDS,
        sweeps=SWEEPS,
        runs=RUNS,
        rfid=expand(rules.rfid.output.rfid, tokenizer=TOKENIZERS),
        classifier=CLASSIFIER,
        data=rules.prepare.output.manifest,
        tracked=f"{ROOT}/mlflow.json",
        paper=PAPER,
        code=[
            "mar/report.py",
            "mar/sections.py",
            "mar/evidence.py",
            "mar/deviations.py",
            "mar/templates/report.html",
            "mar/templates/report.css",
            "mar/tables.py",
            "mar/estimates.py",
        ],
    output:
        page=report(
            f"{ROOT}/report.html", caption="../report/report.rst", category="Report"
        ),
    log:
        f"{ROOT}/logs/report.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        figures=subpath(input.samples, parent=True),
        recipe=slices.report_slice(STUDY),
    shell:
        "mar --threads {threads} report --study {params.study} --figures {params.figures} 2>&1 | tee {log}"


# The database holds other studies too, and Snakemake deletes what a rule declares: the output is the list of its runs.
rule track:
    input:
        runs=RUNS,
        rfid=expand(rules.rfid.output.rfid, tokenizer=TOKENIZERS),
        metrics=METRICS,
        figures=FIGURES,
        code=["mar/track.py", "mar/figures.py"],
    output:
        runs=f"{ROOT}/mlflow.json",
    log:
        f"{ROOT}/logs/track.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=slices.report_slice(STUDY),
    shell:
        "mar --threads {threads} track --study {params.study} --db results/mlflow.db 2>&1 | tee {log}"
