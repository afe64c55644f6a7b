"""What several tests share: the smallest complete study, as the mapping that a study file holds."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

# On Intel's AVX-512 MKL takes other float32 kernels for exp, sin and cos, which differ from the recorded values by more
# than the tolerances. It reads this when torch is imported, also in the processes that tests start.
os.environ["MKL_CBWR"] = "COMPATIBLE"
if "PYTEST_XDIST_WORKER" in os.environ:  # one of as many processes as there are cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

STUDY = """
study: tiny
data: {kind: digits, image_size: 32}
tokenizers:
  kl: {kind: kl, kl_weight: 1.0e-6, <<: &body {stride: 8, channels: [8, 8, 16, 16], latent_channels: 4,
       images: 640, learning_rate: 1.0e-3}}
  vq: {kind: vq, codebook_size: 32, <<: *body}
backbones:
  causal: {kind: causal, width: 32, depth: 1, heads: 4}
  masked: {kind: masked, width: 32, depth: 1, heads: 4, buffer: 4}
heads:
  crossent: {kind: categorical}
  diffloss: {kind: diffusion, width: 32, depth: 1, noise_draws: 2}
recipes:
  short: {images: 640, batch: 64, checkpoint_images: 320, log_images: 64}
sampling:
  ar: {steps: 16, kv_cache: true}
  mar: {steps: 8, diffusion_steps: 4}
variants:
  ar: {tokenizer: vq, order: raster, backbone: causal, head: crossent, recipe: short, sampling: [ar]}
  mar: {tokenizer: kl, order: random, backbone: masked, head: diffloss, recipe: short, sampling: [mar]}
classifier: {channels: [8, 8, 8], images: 640}
metrics: {samples: 100, chunk: 50, bootstrap: 20}
speed: {batch: 16}
tables:
  table1:
    paper: mar_table1
    title: Table 1
    rows: [{paper: mar-default-diffloss, variant: mar, without: mar, guided: mar}]
tradeoff:
  - {label: MAR, variant: mar, sampling: [mar]}
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Beside the slowest tests of --durations the slowest files: one process runs a whole file."""
    count, seconds = terminalreporter.config.getoption("durations"), Counter[str]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    if count:
        terminalreporter.write_sep("=", f"slowest {count} files")
        for file, took in seconds.most_common(count):
            terminalreporter.write_line(f"{took:.1f}s {file}")


@pytest.fixture
def values() -> dict[str, Any]:
    """A complete study of two variants, to be changed by the test."""
    return yaml.safe_load(STUDY)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The same as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(STUDY)
    return path
