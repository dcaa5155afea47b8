"""The batch script of docs/running.md, with srun and scontrol that only write down what happens."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "running.md"
# It stops a while after the signal, as a training does that finishes its step.
SRUN = """#!/bin/bash
echo "$@" >> calls
trap 'sleep 0.2; exit 143' USR1 TERM
touch started
[ -e long ] && for _ in $(seq 100); do sleep 0.05; done
exit 0
"""


@pytest.mark.parametrize("asked", [signal.SIGUSR1, None])
@pytest.mark.parametrize("there", [False, True], ids=["new", "again"])
def test_the_batch_script_hands_the_signal_on_and_requeues(asked, there, tmp_path):
    script = re.search(r"```bash\n(#!/bin/bash.*?)```", PAGE.read_text(), re.DOTALL)[1]
    files = {"srun": SRUN, "scontrol": '#!/bin/bash\necho scontrol "$@" >> calls\n', "job": script}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    if there:
        (tmp_path / "runs" / "first").mkdir(parents=True)
    if asked:
        (tmp_path / "long").touch()
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", "job"], cwd=tmp_path, env=env)
    until = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < until:
        time.sleep(0.02)
    if asked:
        job.send_signal(asked)
    assert job.wait(60) == (143 if asked else 0)
    training = "--resume runs/first" if there else "--run first --epochs 200 --checkpoint_steps 500"
    requeued = ["scontrol requeue 7"] if asked else []
    assert (tmp_path / "calls").read_text().splitlines() == [f"dynamicblocks train {training}", *requeued]
