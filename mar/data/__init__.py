"""Images, latents and tokens on disk, and published files by name.

prepare: lists the images, and decodes each once. images: reads them. image_files: which files of a folder are images.
idx: the format of MNIST and its relatives. imagenet: the totals of ImageNet. tokens: shards of tokens. latents: patches
and posteriors. read_ahead: processes that decode. published: the files of config/assets.csv.

May import: runtime, study.
"""
