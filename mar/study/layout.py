"""Where everything lies: each path under results/ and figures/, and the files that ship with the package.

The package asks these functions with names, the rules of the workflow with wildcards, as
`run(root, "{variant}", "{seed}")`. `root` is the folder of one study, results/<study>. A set of images is `train`,
`heldout`, `reference`, or the sample set <variant>/seed<k>/<setting>.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mar.study.study import Study

RESULTS, FIGURES = Path("results"), Path("figures")
ASSETS = RESULTS / "assets"  # published files and imported weights, shared by all studies
DATABASE = RESULTS / "mlflow.db"  # MLflow's runs of all studies

# File names inside the folders of the stages. A manifest or record is written last: where it is, the folder is whole.
MANIFEST = "manifest.json"  # of data, tokens, samples and features
RECORD = "run.json"  # of a training
LABELS = "labels.npy"  # beside the shards of tokens and the chunks of samples
LOG = "metrics.jsonl"  # of a training of any kind
CHECKPOINTS = "checkpoints"  # folder, of a training of any kind
AVERAGE = "ema.safetensors"  # averaged weights of a training
WEIGHTS = "model.safetensors"  # of a tokenizer and of the classifier
TOKENIZER = "config.json"  # record of a tokenizer
RFID = "rfid.json"  # what a tokenizer loses
CLASSIFIER = "classifier.json"  # record of the classifier
FILES = "files.json"  # image files of each split
DIGITS = "digits.npz"  # scikit-learn's images, prepared
QUANTIZER = "quantizer.safetensors"  # of a multi-scale tokenizer, beside its ids

TABLE_FORMATS = ("csv", "md", "tex")
FIGURE_FORMATS = ("pdf", "png", "csv")

Name = str | int  # a name, a number or the wildcard of a rule


def study(root: Path) -> Path:
    """The resolved study, which every command of `mar` reads."""
    return root / "study.json"


def plan(root: Path) -> Path:
    """Operations and parameters that `mar plan` has counted."""
    return root / "plan.json"


def data(root: Path) -> Path:
    """Folder of what `mar prepare` found."""
    return root / "data"


def data_manifest(root: Path) -> Path:
    """Classes and counts of the images."""
    return data(root) / MANIFEST


def classifier(root: Path) -> Path:
    """Folder of the study's own network that judges."""
    return root / "classifier"


def tokenizer(root: Path, name: Name) -> Path:
    """Folder of a tokenizer."""
    return root / "tokenizers" / str(name)


def tokenizer_weights(root: Path, name: Name) -> Path:
    """Weights of a tokenizer."""
    return tokenizer(root, name) / WEIGHTS


def rfid(root: Path, name: Name) -> Path:
    """What a tokenizer loses."""
    return tokenizer(root, name) / RFID


def tokens(root: Path, tokenizer: Name, split: Name = "train") -> Path:
    """Folder of the tokens of a split."""
    return root / "tokens" / str(tokenizer) / str(split)


def token_manifest(root: Path, tokenizer: Name, split: Name = "train") -> Path:
    """What the tokens of a split are."""
    return tokens(root, tokenizer, split) / MANIFEST


def run_name(variant: Name, seed: Name) -> str:
    """How a training is called: its folder below runs/, and the run of MLflow."""
    return f"{variant}/seed{seed}"


def run(root: Path, variant: Name, seed: Name) -> Path:
    """Folder of a training."""
    return root / "runs" / run_name(variant, seed)


def run_record(root: Path, variant: Name, seed: Name) -> Path:
    """What a finished training says of itself."""
    return run(root, variant, seed) / RECORD


def sweep(root: Path, variant: Name, setting: Name) -> Path:
    """What a sweep found; its points are in the folder of the same name."""
    return root / "sweeps" / str(variant) / f"{setting}.json"


def sample_set(variant: Name, seed: Name, setting: Name) -> str:
    """How a sample set is called: its place below samples/, features/, statistics/ and metrics/."""
    return f"{run_name(variant, seed)}/{setting}"


def samples(root: Path, sample_set: Name) -> Path:
    """Folder of a sample set."""
    return root / "samples" / str(sample_set)


def sample_manifest(root: Path, sample_set: Name) -> Path:
    """What a sample set is."""
    return samples(root, sample_set) / MANIFEST


def features(root: Path, extractor: Name, images: Name) -> Path:
    """Folder of the features of a set of images by one network."""
    return root / "features" / str(extractor) / str(images)


def features_manifest(root: Path, extractor: Name, images: Name) -> Path:
    """What the features of a set of images are."""
    return features(root, extractor, images) / MANIFEST


def statistics(root: Path, extractor: Name, images: Name) -> Path:
    """Mean and covariance of the features of a set of images."""
    return root / "statistics" / str(extractor) / f"{images}.npz"


def metrics(root: Path, images: Name) -> Path:
    """The metrics of a sample set, or of `reference`, the held-out images."""
    return root / "metrics" / f"{images}.json"


def reference_metrics(root: Path) -> Path:
    """The metrics of real images that were held out: the floor of every table."""
    return metrics(root, "reference")


def speed(root: Path, variant: Name) -> Path:
    """Seconds per image of a variant."""
    return root / "speed" / f"{variant}.json"


def table(root: Path, name: Name, suffix: Name) -> Path:
    """A table as csv, md or tex."""
    return root / "tables" / f"{name}.{suffix}"


def figures(root: Path) -> Path:
    """Folder of the figures of a study: they stand outside results/, with the study's name."""
    return FIGURES / root.name


def figure(root: Path, name: Name, suffix: Name) -> Path:
    """A figure as pdf or png, or its numbers as csv."""
    return figures(root) / f"{name}.{suffix}"


def claims(root: Path) -> Path:
    """The verdicts."""
    return root / "claims.json"


def report(root: Path) -> Path:
    """The page of a study."""
    return root / "report.html"


def tracked(root: Path) -> Path:
    """Which run of MLflow is which result."""
    return root / "mlflow.json"


def mlflow_database(root: Path) -> Path:
    """MLflow's runs of all studies."""
    return root.parent / DATABASE.name


def mlflow_artifacts(database: Path) -> Path:
    """Folder of the pictures and files of MLflow's runs, beside its database."""
    return database.parent / f"{database.stem}-artifacts"


def jobs(root: Path) -> Path:
    """Folder of the jobs of a study."""
    return root / "jobs"


def job(root: Path, *names: Name) -> Path:
    """Folder of one job: the record job.json and what the job printed."""
    return jobs(root).joinpath(*map(str, names))


def log(root: Path, *names: Name) -> Path:
    """What the command of a rule printed."""
    place = (root / "logs").joinpath(*map(str, names))
    return place.with_name(f"{place.name}.log")


def drill(root: Path) -> Path:
    """Folder of the drill: drill.json, drill.csv and drill.md, and what each shape needed."""
    return root / "drill"


def drill_table(root: Path, suffix: Name) -> Path:
    """What all shapes of a drill needed, as json, csv or md."""
    return drill(root) / f"drill.{suffix}"


def drill_shape(root: Path, shape: Name) -> Path:
    """What one shape of a drill needed."""
    return drill(root) / "shapes" / f"{shape}.json"


def assets(root: Path) -> Path:
    """Folder of published files and imported weights, shared by all studies."""
    return root.parent / ASSETS.name


def import_weights(assets: Path, name: Name) -> Path:
    """Imported weights under the project's names."""
    return assets / f"{name}.safetensors"


def import_record(assets: Path, name: Name) -> Path:
    """Where imported weights are from, and of which architecture they are."""
    return assets / f"{name}.json"


def downloads(assets: Path) -> Path:
    """Folder of published files as they come."""
    return assets / "downloads"


def twin(study: Study, root: Path, folder: Path) -> Path | None:
    """The folder of the study to `reuse` that answers to `folder` under this study's root."""
    return root.parent / study.reuse / folder.relative_to(root) if study.reuse else None


def shipped(*names: str) -> Path:
    """A file or folder that ships with the package, as `claims.yaml`, wherever the working directory is."""
    return Path(__file__).resolve().parents[2].joinpath("config", *names)
