"""Greedy generation of one text with transformers: the peer of workloads/generate.rhai.

usage: generate.py model=DIR prompt=TEXT [dtype=f32] [tokens=128] [repeats=2] [threads=2]
It also measures how fast this machine reads memory, which bounds a generation that reads all weights for every token."""
import time

import torch
from transformers import AutoTokenizer

from common import arguments, finish, load_model, timed

given = arguments(model="", prompt="Once upon a time", dtype="f32", tokens=128, repeats=2, threads=2)
torch.set_num_threads(given.threads)

tokenizer = AutoTokenizer.from_pretrained(given.model)
model = load_model(given.model, given.dtype).eval()
inputs = tokenizer(given.prompt, return_tensors="pt")
length = inputs["input_ids"].shape[1]


def generate(count):
    output = model.generate(**inputs, max_new_tokens=count, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return output[0, length:]


seconds, tokens, new = timed(generate, given.tokens, given.repeats)
weights = sum(p.nbytes for p in model.parameters())
block = torch.ones(1 << 28)
reads = []
for _ in range(5):
    start = time.perf_counter()
    block.sum()
    reads.append(time.perf_counter() - start)
finish(seconds=seconds, tokens=tokens, text=tokenizer.decode(new, skip_special_tokens=True), weights_gb=weights / 1e9,
       memory_gb_per_second=block.nbytes / min(reads) / 1e9)
