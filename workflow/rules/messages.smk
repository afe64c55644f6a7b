# What Snakemake says that nobody has to read, and what is said at the end.
import re

from snakemake.logging import logger

INTERRUPTED = []
FAILED = {}  # files of the log of each failed job, by its rule and number


def worth_reading(record):
    """Not that Snakemake looks for jobs, nor, after Ctrl-C, the whole command of each job that it ended."""
    text = record.getMessage()
    if text.startswith("Terminating processes on user request"):
        INTERRUPTED.append(record)
    if getattr(getattr(record, "event", None), "name", "") == "JOB_ERROR":
        FAILED[f"{record.rule_name} {record.jobid}"] = [
            str(path) for path in record.log
        ]
    if INTERRUPTED and re.match("Error in|RuleException", text):
        return False
    return not re.match("Select jobs to execute|Execute [0-9]+ jobs", text)


logger.addFilter(worth_reading)


def closing_list():
    """What failed, with the log of each, which says why and names the output of the job on its node."""
    if INTERRUPTED or not FAILED:
        return "stopped; the same command goes on"
    them = "it" if len(FAILED) == 1 else "them"
    lines = [f"{len(FAILED)} failed; the same command goes on with {them}:"]
    for name, logs in FAILED.items():
        lines.append(f"  {name.partition(' ')[0]}: {', '.join(logs) or 'no log'}")
    return "\n".join(lines)
