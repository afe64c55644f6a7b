"""Extractors: networks whose features judge images.

extractors: each network by its name, with its weights. inception, dinov2: published networks. classifier: the network
that a study trains on its own images.

May import: as `mar.features`.
"""
