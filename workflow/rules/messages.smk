# What Snakemake says on the terminal that nobody has to read, and what is said at the end. The logger itself stays as it
# is: its log file and logger plugins get every record.
import logging
import re

from snakemake.logging import ColorizingTextHandler, logger

INTERRUPTED = []
FAILED = {}  # files of the log of each failed job, by its rule and number


class Listener(logging.Handler):
    """Notes that the user interrupted the run, and which jobs failed."""

    def emit(self, record):
        if record.getMessage().startswith("Terminating processes on user request"):
            INTERRUPTED.append(record)
        if getattr(getattr(record, "event", None), "name", "") == "JOB_ERROR":
            FAILED[f"{record.rule_name} {record.jobid}"] = [
                str(path) for path in record.log
            ]


def worth_reading(record):
    """Not that Snakemake looks for jobs, nor, after Ctrl-C, the whole command of each job that it ended."""
    text = record.getMessage()
    if INTERRUPTED and re.match("Error in|RuleException", text):
        return False
    return not re.match("Select jobs to execute|Execute [0-9]+ jobs", text)


logger.handlers.insert(0, Listener())  # before the terminal's, whose filter asks it
for handler in logger.handlers:
    if isinstance(handler, ColorizingTextHandler):
        handler.addFilter(worth_reading)


def closing_list():
    """What failed, with the log of each, which says why and names the output of the job on its node."""
    if INTERRUPTED or not FAILED:
        return "stopped; the same command goes on"
    them = "it" if len(FAILED) == 1 else "them"
    lines = [f"{len(FAILED)} failed; the same command goes on with {them}:"]
    for name, logs in FAILED.items():
        lines.append(f"  {name.partition(' ')[0]}: {', '.join(logs) or 'no log'}")
    return "\n".join(lines)
