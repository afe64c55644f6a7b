"""The commands of `mar`, thin: what a stage does is told in its module.

group: the group and shared options. stages, products, jobs, tools: the commands. Imports stand inside the commands, so
that `mar --help` needs no torch.

May import: every package.
"""
