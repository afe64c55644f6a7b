"""Every command of `mar`, also as `python -m mar.cli`: importing a module of commands adds them to the group."""

from mar.cli import jobs, products, results, stages, tools  # noqa: F401
from mar.cli.group import main

if __name__ == "__main__":
    main()
