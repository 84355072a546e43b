"""General questions through the chat template, greedy, one model.generate a question: the peer of workloads/general_qa.rhai.

usage: general_qa.py model=DIR questions=FILE [sample=40] [dtype=f32] [tokens=20] [threads=2]
Asks an even sample of the questions; sample=0 asks all."""
import time

import torch
from transformers import AutoTokenizer

from common import answer, arguments, finish, load_model, rows

given = arguments(model="", questions="", sample=40, dtype="f32", tokens=20, threads=2)
torch.set_num_threads(given.threads)

tokenizer = AutoTokenizer.from_pretrained(given.model)
model = load_model(given.model, given.dtype).eval()
questions = rows(given.questions)
count = min(given.sample or len(questions), len(questions))
asked = [i * len(questions) // count for i in range(count)]

right = []
start = time.perf_counter()
for i in asked:
    row = questions[i]
    text = answer(model, tokenizer, row["question"], given.tokens).lower()
    right.append(any(accepted.lower() in text for accepted in [row["correct_answer"], *row["alternatives"]]))
finish(seconds=time.perf_counter() - start, total=len(questions), asked=asked, right=right)
