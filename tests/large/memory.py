#!/usr/bin/env python3
"""Compares what `ftrepl model info` says of a model's memory with the peak of a process that does the work.

    python3 memory.py MODEL [WORK[:DTYPE[:BATCHxLENGTH[:checkpointing]]] ...]

WORK is inference, lora, full or sgd (full, with SGD). Without one, those of CASES are measured. A Markdown table goes to standard output;
the exit status is 1 if an estimate is off by more than 15 % of the peak. `ftrepl` must be on the PATH; Linux and macOS.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

CASES = """inference:f32:1x128 inference:f32:8x128 inference:bf16:8x128 inference:q4:8x128 lora:f32:4x128 lora:f32:1x512
lora:f32:4x128:checkpointing lora:bf16:4x128 lora:q8:4x128 lora:q4:4x128 lora:q4:4x128:checkpointing full:f32:4x128 full:f32:1x32
full:f32:4x128:checkpointing sgd:f32:4x128 full:bf16:4x128"""
SCRIPT = Path(__file__).with_name("memory.rhai")
ALLOWED = 0.15


def estimate(model, work, dtype, batch, length, checkpointing):
    """The bytes of the row of `model info`."""
    command = ["ftrepl", "model", "info", model, "--json", "--batch", batch, "--length", length, "--dtype", dtype]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["memory"]["rows"]
    name = {"inference": "inference", "lora": "LoRA, AdamW", "full": "full, AdamW", "sgd": "full, SGD"}[work]
    return next(r for r in rows if r["work"] == name and r["gradient_checkpointing"] == checkpointing)["total"]


def peak(model, work, dtype, batch, length, checkpointing):
    """The most memory, in bytes, that a process was resident with which does nothing else."""
    values = {"model": model, "work": work, "dtype": dtype, "batch": batch, "length": length, "checkpointing": int(checkpointing)}
    if work == "sgd":
        values |= {"work": "full", "optim": "sgd"}
    settings = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    arguments = ["ftrepl", "run", str(SCRIPT), "--quiet", *settings]
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    child = os.posix_spawnp(arguments[0], arguments, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(arguments)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    model, worst = sys.argv[1], 0.0
    print("| work | dtype | batch x length | estimate, MB | measured, MB | off by |\n|---|---|---|---|---|---|")
    for case in sys.argv[2:] or CASES.split():
        work, dtype, shape, *rest = case.split(":") + ["f32", "4x128"][len(case.split(":")) - 1 :]
        batch, length = shape.split("x")
        checkpointing = rest == ["checkpointing"]
        estimated = estimate(model, work, dtype, batch, length, checkpointing)
        measured = peak(model, work, dtype, batch, length, checkpointing)
        off = estimated / measured - 1
        worst = max(worst, abs(off))
        label = work + (", checkpointing" if checkpointing else "")
        print(f"| {label} | {dtype} | {shape} | {estimated / 1e6:.0f} | {measured / 1e6:.0f} | {off:+.1%} |", flush=True)
    sys.exit(worst > ALLOWED)


if __name__ == "__main__":
    main()
