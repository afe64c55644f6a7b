"""The commands of `mar`. Each only reads its options and calls the function of its stage.

group: the group of commands and shared options. stages, products, jobs, results, tools: the commands. Imports are
inside the commands, so that `mar --help` needs no torch.

May import: every package.
"""
