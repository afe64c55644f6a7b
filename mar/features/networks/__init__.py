"""Networks whose features judge.

extractors: each by its name, with its weights. inception, dinov2: published. classifier: trained on the study's images.

May import: as `mar.features`.
"""
