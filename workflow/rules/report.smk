# From metrics to tables, figures, verdicts and the report. The packages that make a product are inputs of its rule.


rule table:
    input:
        metrics=[*METRICS, *GIVEN],
        reference=FLOOR,
        files=table_inputs,
        paper=table_paper,
        code=code("analysis", "report/tables"),
    output:
        csv=report(
            str(layout.table(ROOT, "{table}", "csv")),
            caption="../report/table.rst",
            category="Tables",
            labels={"study": STUDY.study, "table": "{table}"},
        ),
        md=layout.table(ROOT, "{table}", "md"),
        tex=layout.table(ROOT, "{table}", "tex"),
    log:
        layout.log(ROOT, "table", "{table}"),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=table_recipe,
    shell:
        line("table", name="{wildcards.table:q}")


rule figure:
    input:
        files=figure_inputs,
        code=code("analysis", "report/figures"),
    output:
        pdf=layout.figure(ROOT, "{figure}", "pdf"),
        png=report(
            str(layout.figure(ROOT, "{figure}", "png")),
            caption="../report/figure.rst",
            category="Figures",
            labels={"study": STUDY.study, "figure": "{figure}"},
        ),
        csv=layout.figure(ROOT, "{figure}", "csv"),
    log:
        layout.log(ROOT, "figure", "{figure}"),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        out=subpath(output.pdf, parent=True),
        recipe=figure_recipe,
    shell:
        line("figure", name="{wildcards.figure:q}", out="{params.out:q}")


# figures/<name>.pdf is a copy of the figure of the study that ran last.
rule alias:
    input:
        pdf=layout.figure(ROOT, "{figure}", "pdf"),
        png=layout.figure(ROOT, "{figure}", "png"),
        csv=layout.figure(ROOT, "{figure}", "csv"),
    output:
        pdf=layout.FIGURES / "{figure}.pdf",
        png=layout.FIGURES / "{figure}.png",
        csv=layout.FIGURES / "{figure}.csv",
    log:
        layout.log(ROOT, "alias", "{figure}"),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        out=subpath(output.pdf, parent=True),
    shell:
        "cp {input:q} {params.out:q} 2>&1 | tee {log:q}"


rule claims:
    input:
        metrics=METRICS,
        reference=rules.reference.output.floor,
        speed=SPEEDS,
        sweeps=SWEEPS,
        learning=LEARNING,
        tasks=TASKS,
        runs=RUNS,
        rfid=expand(rules.rfid.output.rfid, tokenizer=TOKENIZERS),
        claims=here(layout.shipped("claims.yaml")),
        paper=PAPER,
        code=code("analysis", "paper"),
    output:
        claims=layout.claims(ROOT),
    log:
        layout.log(ROOT, "claims"),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=stage_keys.claims_key(STUDY),
    shell:
        line("claims")


rule report:
    input:
        tables=TABLES,
        figures=FIGURES,
        samples=layout.figure(ROOT, "samples", "png"),
        claims=rules.claims.output.claims,
        metrics=[*METRICS, *GIVEN],
        reference=rules.reference.output.floor,
        speed=SPEEDS,
        sweeps=SWEEPS,
        learning=LEARNING,
        tasks=TASKS,
        runs=RUNS,
        rfid=expand(rules.rfid.output.rfid, tokenizer=TOKENIZERS),
        classifier=CLASSIFIER,
        data=rules.prepare.output.manifest,
        tracked=layout.tracked(ROOT),
        paper=PAPER,
        # The page tells what was made by other code than today's, so it is drawn anew when that changes.
        code=code("analysis", "paper", "report", *code_digest.MAKES),
    output:
        page=report(
            str(layout.report(ROOT)),
            caption="../report/report.rst",
            category="Report",
            labels={"study": STUDY.study},
        ),
    log:
        layout.log(ROOT, "report"),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        figures=subpath(input.samples, parent=True),
        recipe=stage_keys.report_key(STUDY),
    shell:
        # The page links to the runs of MLflow, and MLflow keeps the page.
        line("report", figures="{params.figures:q}")
        + " && "
        + line("track", tee="tee -a")


# The output is the list of the study's runs, not the database: that holds other studies, and Snakemake deletes outputs.
rule track:
    input:
        runs=RUNS,
        rfid=expand(rules.rfid.output.rfid, tokenizer=TOKENIZERS),
        metrics=METRICS,
        figures=FIGURES,
        tables=TABLES,
        claims=rules.claims.output.claims,
        code=code("tracking", "report/figures"),
    output:
        runs=layout.tracked(ROOT),
    log:
        layout.log(ROOT, "track"),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=stage_keys.report_key(STUDY),
    shell:
        line("track")
