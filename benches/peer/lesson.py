"""The lesson's experiment in PyTorch, transformers and PEFT: the peer of `ftrepl lesson 4 --step experiment`, with the same arms and the
same measurements in scripts/lesson04/09_experiment.rhai, written as such a notebook is: one row and one question at a time.

usage: lesson.py model=DIR data=DIR [arms=naive,LoRA] [quick=0] [threads=2]
data: the folder with drug_qa.jsonl, general_qa.jsonl and general_text.jsonl. arms: all unless given; the base always runs."""
import math
import random
import re
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, get_scheduler

from common import answer, arguments, finish, load_model, rows

given = arguments(model="", data="", arms="", quick=0, threads=2)
torch.set_num_threads(given.threads)
tokenizer = AutoTokenizer.from_pretrained(given.model)

if given.quick:
    TRAIN_DRUGS, HELD_OUT_DRUGS, QUESTIONS, FISHER_ROWS, TEXTS, TOKENS, CHECK_TOKENS, LORA_EPOCHS = 2, 2, 48, 4, 8, 8, 24, 6
else:
    TRAIN_DRUGS, HELD_OUT_DRUGS, QUESTIONS, FISHER_ROWS, TEXTS, TOKENS, CHECK_TOKENS, LORA_EPOCHS = 10, 5, 360, 20, 30, 16, 64, 10

NAIVE = dict(epochs=3, lr=5e-4, batch=1, schedule="linear", warmup=0.0, weight_decay=0.0)
CAREFUL = dict(epochs=3, lr=2e-5, batch=1, schedule="cosine", warmup=0.05, weight_decay=0.01)
ARMS = {
    "base": None,
    "naive": NAIVE,
    "low rate": CAREFUL,
    "fewer epochs": NAIVE | dict(epochs=1),
    "LoRA": CAREFUL | dict(epochs=LORA_EPOCHS, lr=2e-4, batch=4),
    "replay": NAIVE,
    "EWC": NAIVE,
}
CHECKS = [
    "List three countries in Europe.",
    "If I have 12 apples and give away 5, then buy 3 more, how many do I have?",
    "Write one sentence about the weather.",
    "Write a JSON object with keys 'name' and 'age'.",
]


def spread(items, count):
    """An even pick."""
    return [items[i * len(items) // count] for i in range(count)]


def text_ids(text):
    return tokenizer(text).input_ids + [tokenizer.eos_token_id]


def batch_of(texts):
    """Token ids, mask and labels of some texts, padded on the right."""
    encoded = [text_ids(text) for text in texts]
    longest = max(map(len, encoded))
    pad = lambda ids, value: ids + [value] * (longest - len(ids))
    return dict(input_ids=torch.tensor([pad(ids, tokenizer.eos_token_id) for ids in encoded]),
                attention_mask=torch.tensor([pad([1] * len(ids), 0) for ids in encoded]),
                labels=torch.tensor([pad(ids, -100) for ids in encoded]))


def fisher_of(model, texts):
    """The mean square of every sequence's own gradient."""
    fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    model.eval()
    for text in texts:
        model.zero_grad()
        model(**batch_of([text])).loss.backward()
        for name, p in model.named_parameters():
            fisher[name] += p.grad ** 2 / len(texts)
    model.zero_grad()
    return fisher


def train(model, texts, settings, penalty=None):
    """Trains; returns the number of tokens."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    steps = settings["epochs"] * math.ceil(len(texts) / settings["batch"])
    optimizer = torch.optim.AdamW(parameters, lr=settings["lr"], weight_decay=settings["weight_decay"], fused=True)
    scheduler = get_scheduler(settings["schedule"], optimizer, math.ceil(settings["warmup"] * steps), steps)
    order, tokens = random.Random(42), 0
    model.train()
    for _ in range(settings["epochs"]):
        texts = order.sample(texts, len(texts))
        for at in range(0, len(texts), settings["batch"]):
            batch = batch_of(texts[at:at + settings["batch"]])
            loss = model(**batch, use_cache=False).loss
            if penalty:
                loss = loss + penalty(model)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            tokens += int(batch["attention_mask"].sum())
    return tokens


@torch.no_grad()
def loss_of(model, pairs):
    """Mean loss of the second text of every pair after the first, in nats a token."""
    total = count = 0
    for prompt, completion in pairs:
        before = tokenizer(prompt).input_ids if prompt else []
        ids = before + text_ids(completion)
        labels = [-100] * len(before) + ids[len(before):]
        targets = sum(label != -100 for label in labels[1:])
        total += model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() * targets
        count += targets
    return total / count


def accuracy(model, items, max_new_tokens):
    """Share of the questions whose answer holds a right answer as whole words."""
    right = 0
    for question, accepted in items:
        text = answer(model, tokenizer, question, max_new_tokens)
        right += any(re.search(rf"(?<!\w){re.escape(a)}(?!\w)", text, re.IGNORECASE) for a in accepted)
    return right / len(items)


# The data: whole drugs are kept apart; the general rows are cut into three parts that do not overlap.
drug_qa = rows(f"{given.data}/drug_qa.jsonl")
chosen = spread(list(dict.fromkeys(row["drug"] for row in drug_qa)), TRAIN_DRUGS + HELD_OUT_DRUGS)
held_out_names = set(spread(chosen, HELD_OUT_DRUGS))
train_rows = [row for row in drug_qa if row["drug"] in set(chosen) - held_out_names]
held_out_rows = [row for row in drug_qa if row["drug"] in held_out_names]
general = [row["text"] for row in rows(f"{given.data}/general_text.jsonl")]
random.Random(42).shuffle(general)
texts, fisher_texts, replay_texts = general[:TEXTS], general[TEXTS:TEXTS + FISHER_ROWS], general[TEXTS + FISHER_ROWS:]
accepted = lambda row: [row["correct_answer"], *row["alternatives"]]
general_questions = [(row["question"], accepted(row)) for row in spread(rows(f"{given.data}/general_qa.jsonl"), QUESTIONS)]


def chat_pairs(of):
    prompt = lambda row: tokenizer.apply_chat_template([{"role": "user", "content": row["paraphrase"]}], tokenize=False, add_generation_prompt=True)
    return [(prompt(row), row["answer"]) for row in of]


def train_arm(name, settings):
    """The arm's model, and the tokens it was trained on."""
    torch.manual_seed(42)
    model = load_model(given.model, "f32")
    if settings is None:
        return model, 0
    wanted, penalty = [row["text"] for row in train_rows], None
    if name == "LoRA":
        model = get_peft_model(model, LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.1, bias="none"))
    if name == "replay":
        wanted += random.Random(42).sample(replay_texts, int(0.15 * len(wanted)))
    if name == "EWC":
        fisher = fisher_of(model, fisher_texts)
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        penalty = lambda model: 5000.0 * sum((fisher[n] * (p - start[n]) ** 2).sum() for n, p in model.named_parameters())
    return model, train(model, wanted, settings, penalty)


def measure(model):
    """All that the experiment measures of a model; the checklist's answers are asked for and not judged."""
    model.eval()
    asked = lambda of: [(row["paraphrase"], accepted(row)) for row in of]
    found = dict(
        learned_loss=loss_of(model, chat_pairs(train_rows)), learned=accuracy(model, asked(train_rows), TOKENS + 12),
        held_out_loss=loss_of(model, chat_pairs(held_out_rows)), held_out=accuracy(model, asked(held_out_rows), TOKENS + 12),
        general=accuracy(model, general_questions, TOKENS), perplexity=math.exp(loss_of(model, [("", text) for text in texts])))
    for prompt in CHECKS:
        answer(model, tokenizer, prompt, CHECK_TOKENS)
    return found


wanted = {"base", *(name.strip() for name in given.arms.split(","))} if given.arms else set(ARMS)
if given.quick and not given.arms:
    wanted = {"base", "naive", "LoRA"}
found = []
for name, settings in ARMS.items():
    if name in wanted:
        start = time.perf_counter()
        model, tokens = train_arm(name, settings)
        trained = time.perf_counter()
        measured = measure(model)
        seconds = dict(training=trained - start, measuring=time.perf_counter() - trained)
        found.append(dict(arm=name, tokens=tokens, **measured, **seconds))
        print(found[-1], file=sys.stderr, flush=True)
finish(arms=found)
