"""A solve finds the memory of the one before, and does not have the system make its pages anew."""

import platform
import subprocess
import sys

import pytest

SOLVES = """
import resource
import torch
import pylocalreg as plr

node = plr.NeuralODE(lambda t, u: -u.sin(), engine="torch", abstol=1e-5, reltol=1e-5)
u0 = torch.rand(512, 784)
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with torch.no_grad():
        node(u0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_made_once() -> None:
    run = subprocess.run([sys.executable, "-c", SOLVES], capture_output=True, text=True, check=True)
    faults = [int(line) for line in run.stdout.split()]
    of_a_state = 512 * 784 * 4 / 4096
    assert sum(faults[3:]) < 15 * of_a_state, faults  # some 5 at most, and 50 without
