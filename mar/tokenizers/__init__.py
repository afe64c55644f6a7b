"""Image <-> tokens: build, train, encode.

autoencoder: the network of a tokenizer. train: `mar tokenizer`. discriminator, perceptual: terms of its loss. encode:
`mar encode`, from images to token shards.

May import: runtime, study, data, models.
"""
