"""Weights -> images: the generation loop, sample sets, sweeps, timings.

generate: the loop. sampler: a trained variant that draws. sample_sets: `mar sample`. drawing: `mar draw`. editing:
`mar edit`. tasks: the same with numbers. learning: curves of learning. sweep: guidance scale and temperature, chosen by
FID. speed: seconds per image. token_cache: conditions reused between autoregressive steps.

May import: runtime, study, data, models, tokenizers, training, features, metrics.
"""
