"""Images, latents and tokens on disk, and published files by name.

prepare: lists the images, and decodes each once. images: reads them. sources: where a user's images are, a folder or
archives. image_files: which files of a folder are images, and how one becomes RGB. archives: zip, tar, WebDataset,
Parquet. preview: a sheet of prepared images. idx: the format of MNIST and its relatives. imagenet: the totals of
ImageNet. heldout: parts of the held-out images. tokens: shards of tokens. latents: patches and posteriors. read_ahead:
processes that decode. published: the files of config/assets.csv.

May import: runtime, study.
"""
