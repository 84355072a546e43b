"""Fine-tuning in PyTorch, transformers and PEFT on a device, for benches/gpu: the peer of workloads/gpu_train.rhai.

A server, so that the libraries are imported once: each line of standard input is a task in JSON, each line of standard output its answer
or {"error": ..}. Tasks: {"do": "model", ..} and {"do": "adapter", ..} make what both sides load, {"do": "train", ..} trains and tells the
seconds of each timed step, the loss of every step and PyTorch's own count of device memory. The first line says what is installed.

usage: gpu_train.py cpu|cuda"""
import gc
import importlib.metadata
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

# Libraries print too: what they print goes to standard error, and standard output is for answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

import random_model  # noqa: E402
from common import load_model, training_rows  # noqa: E402

device = torch.device(sys.argv[1])
on_gpu = device.type == "cuda"


def synchronize():
    if on_gpu:
        torch.cuda.synchronize()


def mark():
    """A point in the device's time. On a GPU it is noted there, and nothing waits for it."""
    if not on_gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(first, second):
    """The seconds between two marks."""
    return first.elapsed_time(second) / 1000 if on_gpu else second - first


def train(given):
    """A plain loop, which is faster than transformers' Trainer, timed as a whole with the device idle at both ends."""
    encoded = training_rows(given.data, AutoTokenizer.from_pretrained(given.model), given.seq)
    steps = given.warm + given.steps
    batches = [torch.tensor(encoded[i * given.batch:(i + 1) * given.batch], device=device) for i in range(steps)]
    torch.manual_seed(42)
    model = load_model(given.model, given.dtype, attn_implementation="sdpa").to(device)
    if given.adapter:
        model = PeftModel.from_pretrained(model, given.adapter, is_trainable=True)
    if given.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=given.rate, weight_decay=0.0, fused=True)
    model.train()
    precision = torch.autocast(device.type, torch.bfloat16) if given.autocast else nullcontext()

    losses, marks = [], []
    for step, ids in enumerate(batches):
        if step == given.warm:
            synchronize()
            start = time.perf_counter()
            marks.append(mark())
        with precision:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        # Read at the end: reading now would wait for the device.
        losses.append(loss.detach())
        if step >= given.warm:
            marks.append(mark())
    synchronize()
    whole = time.perf_counter() - start
    return {"seconds": [between(*pair) for pair in zip(marks, marks[1:])], "whole": whole, "tokens": [ids.numel() for ids in batches],
            "losses": torch.stack(losses).float().tolist(), "trained": sum(p.numel() for p in parameters)}


def train_and_clear(given):
    """As `train`, with the device's memory emptied before and after."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    found = train(given)
    if on_gpu:
        found |= {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return found


def make(given):
    """Writes a model or an adapter; of a model it says how many tokens are words."""
    folder = Path(given.folder)
    if given.do == "model":
        random_model.write_model(folder, given.name, device)
    else:
        targets = random_model.ALL_LINEAR if given.targets == "all-linear" else random_model.QUERIES_AND_VALUES
        random_model.write_adapter(folder, given.name, given.model, targets, given.rank, device)
    if on_gpu:
        torch.cuda.empty_cache()
    return {"words": random_model.config_of(given.name)["bos_token_id"]}


def libraries():
    """The folders with CUDA's libraries that PyTorch was installed with: a build of ours for the same CUDA can use them."""
    packages = [Path(place) / "nvidia" for place in sys.path]
    return sorted({str(file.parent) for folder in packages for file in folder.glob("*/lib/lib*.so.*")})


def hello():
    versions = {}
    for name in ("torch", "transformers", "peft"):
        versions[name] = importlib.metadata.version(name)
    found = {"versions": versions, "cuda": torch.version.cuda, "available": torch.cuda.is_available(), "libraries": libraries()}
    if on_gpu and found["available"]:
        torch.zeros(1, device=device)
        # What is f32, PEFT's adapters, is multiplied by tensor cores.
        torch.set_float32_matmul_precision("high")
    return found


def answer(value):
    print(json.dumps(value), file=answers, flush=True)


answer(hello())
for line in sys.stdin:
    task = SimpleNamespace(**json.loads(line))
    try:
        answer(train_and_clear(task) if task.do == "train" else make(task))
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
