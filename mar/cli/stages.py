"""The commands of the stages, in the order of the workflow."""

from __future__ import annotations

from pathlib import Path

import click

from mar.cli.group import (
    main,
    open_study,
    recipe_option,
    seed_option,
    setting_option,
    shard_option,
    study_option,
    tokenizer_option,
    variant_option,
)
from mar.study import layout
from mar.study.real_sets import SETS


@main.command()
@study_option
def prepare(study: str) -> None:
    """Find, check and count the images."""
    from mar.data.prepare import prepare

    prepare(*open_study(study))


@main.command()
@study_option
@recipe_option
def classifier(study: str, recipe: str) -> None:
    """Train the classifier, or take a shipped one of equal recipe, whose features the metrics use."""
    from mar.features.networks.classifier import recipe_for, train
    from mar.weights import shipped

    loaded, root = open_study(study, recipe=recipe, stage="classifier")
    if loaded.shipped:
        shipped.take(layout.classifier(root), recipe_for(loaded, root), layout.CLASSIFIER)
    train(loaded, root)


@main.command()
@study_option
@recipe_option
def rejecter(study: str, recipe: str) -> None:
    """Train the second classifier, by which settings with `reject` accept drawn images."""
    from mar.features.networks.rejecter import train

    train(*open_study(study, recipe=recipe, stage="rejecter"))


extractor_option = click.option("--extractor", required=True, help="Network that judges, of metrics.extractors.")

set_option = click.option(
    "--set", "where", required=True, help=f"{', '.join(SETS)}, VARIANT/seedK/SETTING, or given/NAME."
)


@main.command()
@study_option
@extractor_option
@set_option
@recipe_option
@shard_option
def features(study: str, extractor: str, where: str, recipe: str, shard: tuple[int, int]) -> None:
    """Show a set of images to a network and keep its features, or a share of them; the same command resumes."""
    from mar.features.features import features

    features(*open_study(study, extractor=extractor, recipe=recipe, stage="features"), extractor, where, shard)


@main.command()
@study_option
@extractor_option
@set_option
def statistics(study: str, extractor: str, where: str) -> None:
    """Mean and covariance of the features of a set."""
    from mar.metrics.statistics import statistics

    statistics(*open_study(study, extractor=extractor), extractor, where)


@main.command()
@study_option
@recipe_option
def reference(study: str, recipe: str) -> None:
    """Every metric of held-out real images: the real-versus-real floor."""
    from mar.metrics.evaluate import reference

    reference(*open_study(study, recipe=recipe, stage="reference"))


@main.command()
@study_option
@tokenizer_option
@recipe_option
def tokenizer(study: str, tokenizer: str, recipe: str) -> None:
    """Train a tokenizer, or take a shipped one of equal recipe."""
    loaded, root = open_study(study, tokenizer=tokenizer, recipe=recipe, stage="tokenizer")
    if loaded.instances[tokenizer].config.pretrained:
        from mar.weights.install import install_tokenizer

        install_tokenizer(loaded, root, tokenizer)
    else:
        from mar.tokenizers.train import recipe_for, train
        from mar.weights import shipped

        if loaded.shipped:
            shipped.take(layout.tokenizer(root, tokenizer), recipe_for(loaded, root, tokenizer), layout.TOKENIZER)
        train(loaded, root, tokenizer)


@main.command()
@study_option
@tokenizer_option
@recipe_option
def rfid(study: str, tokenizer: str, recipe: str) -> None:
    """Measure what a tokenizer loses: rFID, PSNR, codebook usage."""
    from mar.metrics.reconstruction import rfid

    rfid(*open_study(study, tokenizer=tokenizer, recipe=recipe, stage="rfid"), tokenizer)


@main.command()
@study_option
def gate(study: str) -> None:
    """Check what the tokenizers lose against the pilot's FIDs that the study's section `gate` says."""
    from mar.analysis.gate import check

    check(*open_study(study))


@main.command()
@study_option
@tokenizer_option
@recipe_option
@shard_option
def encode(study: str, tokenizer: str, recipe: str, shard: tuple[int, int]) -> None:
    """Turn all images into tokens, or a share of them beside other workers; the same command resumes."""
    from mar.tokenizers.encode import encode

    encode(*open_study(study, tokenizer=tokenizer, recipe=recipe, stage="tokenizer"), tokenizer, shard)


@main.command()
@study_option
@variant_option
@seed_option
@recipe_option
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Begin with the newest checkpoint of the training there, of another recipe; the report tells it.",
)
def train(study: str, variant: str, seed: int, recipe: str, start: Path | None) -> None:
    """Train a variant with one seed; the same command resumes."""
    loaded, root = open_study(study, variant, recipe=recipe, stage="train", seed=seed)
    if loaded.variants[variant].pretrained:
        if start:
            raise ValueError(f"--from {start}: variants.{variant} is pretrained; accepted: a variant that is trained")
        from mar.weights.install import install_run

        install_run(loaded, root, variant, seed)
    else:
        from mar.training.trainer import train

        def operations() -> float:
            from mar.planning import costs, plan

            backbone, head, settings, tokens = costs.parts(loaded, variant, plan.count_images(loaded, root).classes)
            return costs.training(backbone, head, tokens, settings)

        train(loaded, root, variant, seed, operations, start)


@main.command()
@study_option
@variant_option
@seed_option
@recipe_option
def learning(study: str, variant: str, seed: int, recipe: str) -> None:
    """Measure the averages that a training kept on its way: held-out loss, and FID where the study asks for samples."""
    from mar.planning import costs, plan
    from mar.sampling.learning import learning

    loaded, root = open_study(study, variant, recipe=recipe, stage="learning", seed=seed)
    classes = plan.count_images(loaded, root).classes
    learning(loaded, root, variant, seed, operations=costs.compute(loaded, variant, classes))


@main.command()
@study_option
@variant_option
@seed_option
@recipe_option
def tasks(study: str, variant: str, seed: int, recipe: str) -> None:
    """In-painting, out-painting and class change of held-out images, measured; the same command resumes."""
    from mar.sampling.tasks import tasks

    tasks(*open_study(study, variant, recipe=recipe, stage="tasks", seed=seed), variant, seed)


@main.command()
@study_option
@variant_option
@setting_option
@recipe_option
@shard_option
def sweep(study: str, variant: str, setting: str, recipe: str, shard: tuple[int, int]) -> None:
    """Choose guidance and temperature of a swept setting for a variant, or measure a share of the points beside others.

    The same command resumes.
    """
    from mar.sampling.sweep import sweep

    sweep(*open_study(study, variant, setting, recipe=recipe, stage="sweep"), variant, setting, shard)


@main.command()
@study_option
@variant_option
@seed_option
@setting_option
@recipe_option
@shard_option
def sample(study: str, variant: str, seed: int, setting: str, recipe: str, shard: tuple[int, int]) -> None:
    """Draw a sample set from a trained variant, or a share of it beside other workers; the same command resumes."""
    from mar.sampling.sample_sets import sample

    sample(
        *open_study(study, variant, setting, recipe=recipe, stage="sample", seed=seed), variant, seed, setting, shard
    )


@main.command()
@study_option
@click.option("--variant", default="", help="Name of a variant of the study, with --seed and --setting.")
@click.option("--seed", type=int, help="Training seed.")
@click.option("--setting", default="", help="Name of a sampling setting of the variant.")
@click.option("--given", default="", metavar="NAME", help="Instead: a sample set that others drew, of `given`.")
@recipe_option
def evaluate(study: str, variant: str, seed: int | None, setting: str, given: str, recipe: str) -> None:
    """Measure a sample set by its features and statistics."""
    from mar.metrics.evaluate import evaluate, evaluate_given
    from mar.study.compatibility import known

    if [bool(variant), seed is not None, bool(setting), bool(given)] not in ([1, 1, 1, 0], [0, 0, 0, 1]):
        raise ValueError("evaluate: accepted: --variant, --seed and --setting together, or --given alone")
    if seed is None:
        loaded, root = open_study(study, recipe=recipe, stage="metrics")
        known("--given", given, loaded.given)
        evaluate_given(loaded, root, given)
        return
    evaluate(*open_study(study, variant, setting, recipe=recipe, stage="metrics", seed=seed), variant, seed, setting)


@main.command()
@study_option
@variant_option
@recipe_option
def speed(study: str, variant: str, recipe: str) -> None:
    """Measure the seconds per image of a variant at each of its sampling settings."""
    from mar.sampling.speed import measure

    measure(*open_study(study, variant, recipe=recipe, stage="speed"), variant)
