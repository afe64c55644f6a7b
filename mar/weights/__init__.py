"""Published weights under our names, and their place in a study.

names: the published names. importing: `mar import`. install: an import in the place of a training.

May import: runtime, study, data, models, tokenizers.
"""
