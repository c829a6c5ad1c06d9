"Processes for tests: two of one script, and one that has ended."

import os
import subprocess
import sys
from pathlib import Path

import torch


def two_processes(script: str, folder: Path) -> list:
    "What two processes of a script in tests/ leave as 0.pt and 1.pt in a folder; they meet in a file there."
    away = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {k: v for k, v in os.environ.items() if k not in away} | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(Path(__file__).with_name(script)), str(folder), str(folder / "meet")]
    pipes = dict(env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    processes = [subprocess.Popen([*words, str(rank)], **pipes) for rank in (0, 1)]
    try:
        outs = [p.communicate(timeout=240)[0] for p in processes]
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outs)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def ended() -> int:
    "The number of a process that has ended."
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
