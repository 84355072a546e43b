"""Fine-tuning in PyTorch, transformers and PEFT, timed step by step: the peer of workloads/train.rhai.

usage: train.py model=DIR data=FILE [method=lora|full] [dtype=f32|bf16] [rank=16] [batch=4] [seq=128] [steps=6] [threads=2]
A plain loop, which is faster than transformers' Trainer. The rows and their order are those that ours trains on."""
import sys
import time

import torch
from transformers import AutoTokenizer

from common import arguments, finish, load_model, training_rows

given = arguments(model="", data="", method="lora", dtype="f32", rank=16, batch=4, seq=128, steps=6, threads=2)
torch.set_num_threads(given.threads)
torch.manual_seed(42)

tokenizer = AutoTokenizer.from_pretrained(given.model)
model = load_model(given.model, given.dtype)
if given.method == "lora":
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(model, LoraConfig(
        task_type="CAUSAL_LM", r=given.rank, lora_alpha=2 * given.rank, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, bias="none"))
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
model.train()

encoded = training_rows(given.data, tokenizer, given.seq)

seconds, tokens, losses = [], [], []
for step in range(given.steps):
    start = time.perf_counter()
    batch = encoded[step * given.batch:(step + 1) * given.batch]
    longest = max(map(len, batch))
    ids = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in batch])
    mask, labels = None, ids
    # Without a mask attention is faster: only rows of several lengths get one.
    if any(len(row) < longest for row in batch):
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        labels = ids.masked_fill(mask == 0, -100)
    loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
    seconds.append(time.perf_counter() - start)
    tokens.append(sum(map(len, batch)))
    if step == 0:
        print("first step done", file=sys.stderr, flush=True)
finish(seconds=seconds, tokens=tokens, losses=losses)
