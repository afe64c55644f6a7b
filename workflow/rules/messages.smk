# What Snakemake says that nobody has to read.
import re

from snakemake.logging import logger

INTERRUPTED = []


def worth_reading(record):
    """Not that Snakemake looks for jobs, nor, after Ctrl-C, the whole command of each job that it ended."""
    text = record.getMessage()
    if text.startswith("Terminating processes on user request"):
        INTERRUPTED.append(record)
    if INTERRUPTED and re.match("Error in|RuleException", text):
        return False
    return not re.match("Select jobs to execute|Execute [0-9]+ jobs", text)


logger.addFilter(worth_reading)
