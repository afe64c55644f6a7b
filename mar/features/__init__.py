"""Images -> features: sets of images and the networks that judge them.

image_sets: samples, splits, folders, .npz. references: published real sides. features: `mar features`. neighbours: the
nearest image. networks/: Inception, DINOv2, the study's own classifier.

May import: runtime, study, data.
"""
