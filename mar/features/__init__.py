"""Images -> features: sets of images, and the networks (extractors) whose features evaluate them.

image_sets: samples, splits, folders, .npz. references: published real images or their statistics. features: `mar
features`. neighbours: distance to the nearest image. networks/: Inception, DINOv2, the study's own classifier.

May import: runtime, study, data.
"""
