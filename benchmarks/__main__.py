"""All benchmarks, or those that are named: python -m benchmarks [NAME ...]. Prints Markdown, writes nothing."""

from __future__ import annotations

import importlib
import sys
import time

from benchmarks.paired import machine

# Each is a module whose docstring explains its section and whose report() returns the tables.
NAMES = (
    "sampling",
    "fast",
    "cache",
    "training",
    "tokens",
    "images",
    "precision",
    "workflow",
    "scaling",
    "roofline",
    "launch",
)


def main() -> None:
    """Print one section per benchmark."""
    names = sys.argv[1:] or NAMES
    if unknown := set(names) - set(NAMES):
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; accepted: {', '.join(NAMES)}")
    print(f"{machine()}\n", flush=True)
    for name in names:
        module, start = importlib.import_module(f"benchmarks.{name}"), time.monotonic()
        print(f"### {name}\n\n{(module.__doc__ or '').strip()}\n\n{module.report()}", flush=True)
        print(f"\n({time.monotonic() - start:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
