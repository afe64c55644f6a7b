"""Published weights under our names, and their place in a study.

names: published names of tensors turned into ours. importing: `mar import`. install: imported weights in the place of a
training. exported: `mar export` and its import. shipped: finished tokenizers and classifiers that ship with the
project.

May import: runtime, study, data, models, tokenizers.
"""
