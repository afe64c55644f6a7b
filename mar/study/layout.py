"""Every path under results/ and figures/, and those of the files that ship with the package.

The package calls these functions with names, the rules of the workflow with wildcards, as in
`run(root, "{variant}", "{seed}")`. `root` is the folder of one study, results/<study>. A set of images is named
as in `mar.study.real_sets`, or the sample set <variant>/seed<k>/<setting>, or given/<name>.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mar.runtime import project

if TYPE_CHECKING:
    from mar.study.study import Study

RESULTS, FIGURES = Path("results"), Path("figures")
ASSETS = RESULTS / "assets"  # published files and imported weights, shared by all studies
DATABASE = RESULTS / "mlflow.db"  # MLflow's runs of all studies

# File names inside the folders of the stages. A stage writes its manifest or record last: where it exists, the folder
# is complete.
MANIFEST = "manifest.json"  # lists the files of data, tokens, samples or features
RECORD = "run.json"  # describes a finished training
LABELS = "labels.npy"  # class of each image, beside the shards of tokens or the chunks of samples
LOG = "metrics.jsonl"  # log of a variant, a tokenizer or a classifier in training
CHECKPOINTS = "checkpoints"  # folder of the states that a training resumes from
AVERAGE = "ema.safetensors"  # exponential moving average of the weights of a training
LEARNING = "learning.json"  # what the averages that a training kept have learned
PICTURES = "learning.png"  # images that they draw
TASKS = "tasks.json"  # what a model did in zero-shot tasks, and how well
MEASURES = "measures.npz"  # beside it: the same of each image
WEIGHTS = "model.safetensors"  # weights of a tokenizer or of the classifier
TOKENIZER = "config.json"  # describes a finished tokenizer
RFID = "rfid.json"  # rFID and PSNR of the reconstructions of a tokenizer
CLASSIFIER = "classifier.json"  # describes the finished classifier
SHIPPED = "shipped.json"  # where a tokenizer or classifier was taken from that ships with the project
FILES = "files.json"  # lists the image files of each split
ARRAYS = "arrays.json"  # checksum of the file of either that `prepare` wrote
LISTING = "listing.txt"  # checksum of the names and sizes of images when they were prepared; state of their archives
UNPACKED = "unpacked.bin"  # images of compressed tars and Parquet files, one behind the other
PREVIEW = "preview.png"  # some images of each class as they were prepared
QUANTIZER = "quantizer.safetensors"  # codebook of a multi-scale tokenizer, beside the ids that it made

GIVEN = "given"  # first part of the names of sets that others drew

TABLE_FORMATS = ("csv", "md", "tex")
FIGURE_FORMATS = ("pdf", "png", "csv")

Name = str | int  # a name, a number or the wildcard of a rule


def study(root: Path) -> Path:
    """The resolved study, which every command of `mar` reads."""
    return root / "study.json"


def own_code(root: Path) -> Path:
    """Folder of the code of own kinds, by digest."""
    return root / "code"


def plan(root: Path) -> Path:
    """Operations and parameters that `mar plan` has counted."""
    return root / "plan.json"


def times(root: Path) -> Path:
    """How long each job is expected to take on the machine that `mar plan` ran on."""
    return root / "times.json"


def gpu_hours(root: Path) -> Path:
    """GPU hours that a cluster has spent on each stage, beside those that were planned."""
    return root / "gpu_hours.json"


def steps(root: Path) -> Path:
    """What the run of the workflow that started last has to make."""
    return root / "steps.json"


def workflow_lock(root: Path) -> Path:
    """File that the workflow of a study holds while it runs."""
    return root / ".workflow"


def data(root: Path) -> Path:
    """Folder of the list of images that `mar prepare` makes."""
    return root / "data"


def data_manifest(root: Path) -> Path:
    """File of the classes and the counts of the images."""
    return data(root) / MANIFEST


def classifier(root: Path) -> Path:
    """Folder of the study's own classifier, whose features judge images."""
    return root / "classifier"


def rejecter(root: Path) -> Path:
    """Folder of the study's own network that accepts or rejects drawn images."""
    return root / "rejecter"


def of_seed(tokenizer: Name, seed: Name) -> str:
    """Name on disk of the tokenizer of one training seed, where a section has one for each (`per_seed`)."""
    return f"{tokenizer}-seed{seed}"


def tokenizer(root: Path, name: Name) -> Path:
    """Folder of a tokenizer. Its name is one of `Study.instances`, here and below."""
    return root / "tokenizers" / str(name)


def tokenizer_weights(root: Path, name: Name) -> Path:
    """Weights of a tokenizer."""
    return tokenizer(root, name) / WEIGHTS


def rfid(root: Path, name: Name) -> Path:
    """File of the reconstruction metrics of a tokenizer: rFID, PSNR, use of the codebook."""
    return tokenizer(root, name) / RFID


def gate(root: Path) -> Path:
    """File that says that the tokenizers of a study passed its gate."""
    return root / "gate.json"


def tokens(root: Path, tokenizer: Name, split: Name = "train") -> Path:
    """Folder of the tokens of a split."""
    return root / "tokens" / str(tokenizer) / str(split)


def token_manifest(root: Path, tokenizer: Name, split: Name = "train") -> Path:
    """File that describes the tokens of a split and lists their files."""
    return tokens(root, tokenizer, split) / MANIFEST


def run_name(variant: Name, seed: Name) -> str:
    """Name of a training: its folder below runs/, and its run in MLflow."""
    return f"{variant}/seed{seed}"


def run(root: Path, variant: Name, seed: Name) -> Path:
    """Folder of a training."""
    return root / "runs" / run_name(variant, seed)


def run_record(root: Path, variant: Name, seed: Name) -> Path:
    """File that describes a finished training."""
    return run(root, variant, seed) / RECORD


def kept_average(folder: Path, images: int) -> Path:
    """Average of the weights after so many images, which the training in `folder` kept on its way."""
    return folder / f"ema-{images:010d}.safetensors"


def learning(root: Path, variant: Name, seed: Name) -> Path:
    """File of the losses, and where asked the FID, of the averages that a training kept on its way."""
    return run(root, variant, seed) / LEARNING


def pictures(root: Path, variant: Name, seed: Name) -> Path:
    """Images drawn with each of these averages, a row for each; of models to which power laws are fitted."""
    return run(root, variant, seed) / PICTURES


def tasks(root: Path, variant: Name, seed: Name) -> Path:
    """File of the zero-shot tasks of a model; the images that it drew are beside it."""
    return root / "tasks" / run_name(variant, seed) / TASKS


def sweep(root: Path, variant: Name, setting: Name) -> Path:
    """File of the result of a sweep; its points are in the folder of the same name."""
    return root / "sweeps" / str(variant) / f"{setting}.json"


def sample_set(variant: Name, seed: Name, setting: Name) -> str:
    """Name of a sample set: its path below samples/, features/, statistics/ and metrics/."""
    return f"{run_name(variant, seed)}/{setting}"


def given_set(name: Name) -> str:
    """Name of a sample set that others drew: its path below features/, statistics/ and metrics/."""
    return f"{GIVEN}/{name}"


def given(root: Path, name: Name) -> Path:
    """File that says which file a given set was when the workflow was read last: it changes when that file does."""
    return root / GIVEN / f"{name}.txt"


def samples(root: Path, sample_set: Name) -> Path:
    """Folder of a sample set."""
    return root / "samples" / str(sample_set)


def sample_manifest(root: Path, sample_set: Name) -> Path:
    """File that describes a sample set and lists its files."""
    return samples(root, sample_set) / MANIFEST


def features(root: Path, extractor: Name, images: Name) -> Path:
    """Folder of the features of a set of images by one network."""
    return root / "features" / str(extractor) / str(images)


def features_manifest(root: Path, extractor: Name, images: Name) -> Path:
    """File that describes the features of a set of images and lists their files."""
    return features(root, extractor, images) / MANIFEST


def statistics(root: Path, extractor: Name, images: Name) -> Path:
    """File of the mean and the covariance of the features of a set of images."""
    return root / "statistics" / str(extractor) / f"{images}.npz"


def metrics(root: Path, images: Name) -> Path:
    """File of the metrics of a sample set, of ours or given, or of `reference`, the held-out images."""
    return root / "metrics" / f"{images}.json"


def reference_metrics(root: Path) -> Path:
    """File of the metrics of the held-out real images: the floor of every table."""
    return metrics(root, "reference")


def speed(root: Path, variant: Name) -> Path:
    """File of the seconds per image of a variant."""
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
    """File of the verdict on each claim of the paper."""
    return root / "claims.json"


def report(root: Path) -> Path:
    """The report of a study, one HTML page."""
    return root / "report.html"


def tracked(root: Path) -> Path:
    """File that names the run of MLflow for each result."""
    return root / "mlflow.json"


def mlflow_database(root: Path) -> Path:
    """SQLite file of MLflow's runs of all studies."""
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


def logs(root: Path) -> Path:
    """Folder of what the commands of the rules print."""
    return root / "logs"


def log(root: Path, *names: Name) -> Path:
    """File of what the command of a rule printed."""
    place = logs(root).joinpath(*map(str, names))
    return place.with_name(f"{place.name}.log")


def drill(root: Path) -> Path:
    """Folder of the drill: the time and memory that each shape needed, and drill.json, drill.csv and drill.md."""
    return root / "drill"


def drill_table(root: Path, suffix: Name) -> Path:
    """File of what all shapes of a drill needed, as json, csv or md."""
    return drill(root) / f"drill.{suffix}"


def drill_shape(root: Path, shape: Name) -> Path:
    """File of the time and memory that one shape of a drill needed."""
    return drill(root) / "shapes" / f"{shape}.json"


def assets(root: Path) -> Path:
    """Folder of published files and imported weights, shared by all studies."""
    return root.parent / ASSETS.name


def import_weights(assets: Path, name: Name) -> Path:
    """File of imported weights, whose tensors have this project's names."""
    return assets / f"{name}.safetensors"


def import_record(assets: Path, name: Name) -> Path:
    """File that says where imported weights are from and which architecture they have."""
    return assets / f"{name}.json"


def import_study(assets: Path, name: Name) -> Path:
    """The study of an import that has brought its own: of a file of `mar export`."""
    return assets / f"{name}.yaml"


def downloads(assets: Path) -> Path:
    """Folder of published files as they were downloaded."""
    return assets / "downloads"


def twin(study: Study, root: Path, folder: Path) -> Path | None:
    """The folder of the study to `reuse` that corresponds to `folder` of this study; None where none is reused."""
    return root.parent / study.reuse / folder.relative_to(root) if study.reuse else None


def shipped(*names: str) -> Path:
    """A file or folder of config/ that ships with the package, such as `claims.yaml`, in any working directory."""
    return project.path("config", *names)
