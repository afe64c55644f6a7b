"""Image <-> tokens: build, train, encode.

autoencoder: what a tokenizer is. train: `mar tokenizer`. discriminator, perceptual: terms of its loss. encode: images
to token shards.

May import: runtime, study, data, models.
"""
