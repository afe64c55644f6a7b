"""Images, latents and tokens on disk, and published files by name.

prepare: looks at every image once. images: reads them. imagenet: what ImageNet has. tokens: shards of tokens. latents:
patches and posteriors. read_ahead: worker processes. published: files of config/assets.csv.

May import: runtime, study.
"""
