"""Files that survive a crash, named random numbers, several processes, progress.

files, folders: atomic writes, checksums, records, locks, claims. shards: the guard of every stage, and files that
several workers make. checkpoint, runlog: the state and the log of a training. noise: random numbers by name.
distributed: processes that share a training. environment: variables that libraries read. stop_signals: requests to
leave soon. progress: lines about long work. provenance: code and machine that made a result. npz: large .npz files in
parts. text: texts of others made printable.

May import: no other package of mar.
"""
