"""A study that travels: what a reviewer needs of it in one folder, checked without GPU, network and data.

record: what a bundle says of itself. contents: which files it holds. write: make one, or join parts. crate, cards: what
describes it to others. checks: compute its numbers again. adopt: accept results of another machine. compare: two
studies or bundles cell by cell.

May import: all packages but tracking and cli.
"""
