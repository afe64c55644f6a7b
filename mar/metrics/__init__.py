"""Features -> statistics -> metrics with intervals, on the CPU with numpy.

moments, statistics: mean and covariance. formulas: FID, IS, precision, recall, KID. bootstrap, jackknife: intervals.
real_images: what sets are compared with. fid_infinity: FID at infinitely many images. copies: share of copied training
images. timed: intervals of timings. evaluate: `mar evaluate` and `mar reference`. reconstruction: rFID.

May import: runtime, study, data, features, tokenizers.
"""
