"""Files that survive a crash, named random numbers, several processes, progress.

files, folders: atomic writes, checksums, locks, the guard of a folder that can be resumed. checkpoint, runlog: the
state and the log of a training. noise: random numbers by name. distributed: processes that share a training.
stop_signals: requests to leave soon. progress: lines about long work. provenance: code and machine that made a result.
npz: large .npz files in parts.

May import: no other package of mar.
"""
