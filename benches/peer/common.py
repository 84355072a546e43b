"""What the peer's scripts share: arguments of the form key=value, and the result as JSON on standard output."""
import json
import sys
import time
from types import SimpleNamespace


def arguments(**defaults):
    """The arguments over the defaults, each of its default's type."""
    for argument in sys.argv[1:]:
        key, _, text = argument.partition("=")
        if key not in defaults:
            sys.exit(f"unknown argument {key}; known are {', '.join(defaults)}")
        defaults[key] = type(defaults[key])(text)
    return SimpleNamespace(**defaults)


def rows(path):
    """The rows of a JSON Lines file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def training_rows(path, tokenizer, seq):
    """The token ids of the rows of a file, with the end token and cut to `seq`, in the order in which ours trains on them."""
    import torch
    encoded = [(tokenizer(row["text"]).input_ids + [tokenizer.eos_token_id])[:seq] for row in rows(path)]
    return [encoded[i] for i in torch.randperm(len(encoded), generator=torch.Generator().manual_seed(42)).tolist()]


def load_model(name, dtype, **options):
    """A causal language model on the CPU; dtype is "f32" or "bf16"."""
    import torch
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(name, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype], **options)


def answer(model, tokenizer, question, max_new_tokens):
    """A greedy answer to a question that is asked through the chat template: the new text alone."""
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)


def timed(generate, count, repeats):
    """Calls generate(count), which gives new tokens, after a short call to warm up: seconds and tokens of each call, the last tokens."""
    generate(4)
    seconds, tokens = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        new = generate(count)
        seconds.append(time.perf_counter() - start)
        tokens.append(len(new))
    return seconds, tokens, new


def finish(**result):
    """Prints the result; nothing else may be printed to standard output."""
    print(json.dumps(result))
