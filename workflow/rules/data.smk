# The images, and the study's own classifier, whose features judge them.
import sys

from snakemake.exceptions import WorkflowError

from mar.data import sources
from mar.study import lengths, reading

if STUDY.data.decoded and (
    IMAGE_CLASSES := sources.classes_of(
        layout.data_manifest(ROOT), Path(STUDY.data.folder)
    )
):
    try:
        lengths.check_images(STUDY, IMAGE_CLASSES)
    except ValueError as error:
        raise WorkflowError(str(reading.blame(error, SOURCE)))

# Image files that were added, removed or changed in size since `mar prepare` listed them run it again.
IMAGE_LIST, IMAGES_CHANGED = (
    sources.changed_since(layout.data_manifest(ROOT), Path(STUDY.data.folder))
    if STUDY.data.decoded
    else ("", False)
)
if IMAGES_CHANGED:
    print(
        f"{STUDY.data.folder}: image files were added, removed or changed in size since `mar prepare` listed them. It "
        "runs again, and after it all that is made from these images: tokenizers that are trained, tokens, trainings, "
        "samples and their numbers. To keep what is finished, make the images what they were.",
        file=sys.stderr,
    )


rule prepare:
    output:
        manifest=layout.data_manifest(ROOT),
    log:
        layout.log(ROOT, "prepare"),
    threads: 1
    resources:
        cluster_jobs=0,
    params:
        study=STUDY_FILE,
        recipe=stage_keys.data_key(STUDY) + IMAGE_LIST,
    shell:
        line("prepare")


rule classifier:
    input:
        data=rules.prepare.output.manifest,
    output:
        weights=layout.classifier(ROOT) / layout.WEIGHTS,
        record=layout.classifier(ROOT) / layout.CLASSIFIER,
    log:
        layout.log(ROOT, "classifier"),
    threads: waiting("classifier")
    resources:
        **launched("classifier"),
    params:
        study=STUDY_FILE,
        job=job("classifier"),
        recipe=stage_keys.classifier_key(STUDY) if CLASSIFIER else "",
    shell:
        launch("classifier")


# The network by which settings with `reject` accept images.
rule rejecter:
    input:
        data=rules.prepare.output.manifest,
    output:
        weights=layout.rejecter(ROOT) / layout.WEIGHTS,
        record=layout.rejecter(ROOT) / layout.CLASSIFIER,
    log:
        layout.log(ROOT, "rejecter"),
    threads: waiting("rejecter")
    resources:
        **launched("rejecter"),
    params:
        study=STUDY_FILE,
        job=job("rejecter"),
        recipe=stage_keys.rejecter_key(STUDY),
    shell:
        launch("rejecter")
