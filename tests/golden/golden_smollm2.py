"""SmolLM2-135M-Instruct (float32, dequantised from the Q4_1 GGUF): sums of its tensors, logits, greedy answers, chat template
renderings.

usage: python tests/golden/make_golden.py smollm2 --model DIR/smollm2
Makes smollm2/tensors.json, smollm2/logits.{safetensors,json}, smollm2/greedy.json, smollm2/chat.json. A continuation is taken only
where the best two logits differ by more than MARGIN at every step, so that rounding cannot change it; a prompt that fails is passed
over."""
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from golden_common import HERE, greedy, versions, write_json, write_tensors

MARGIN = 5e-3
LOGIT_PROMPTS = [
    "The capital of France is", "Question: What gas do plants absorb from the air?\nAnswer:", "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "1 + 1 = 2, 2 + 2 = 4, 4 + 4 =", "Il était une fois, dans un petit village,", "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n",
    "Aspirin is an NSAID used for pain, fever and", "Привет, как дела?", "The quick brown fox jumps over the lazy dog. " * 4,
    "{\"name\": \"Alice\", \"age\":",
]
RAW = [
    "The capital of France is", "Once upon a time, there was a little girl named", "def add(a, b):\n    \"\"\"Return the sum.\"\"\"\n",
    "The three primary colors are", "Water boils at", "Photosynthesis is the process by which", "The first president of the United States was",
    "A list of fruits:\n1. Apple\n2.", "import numpy as np\n", "The opposite of hot is",
]
CHAT = [
    "What is the capital of France?", "Write one sentence about the weather.", "List three countries in Europe.",
    "If I have 12 apples and give away 5, then buy 3 more, how many do I have?", "Write a JSON object with keys 'name' and 'age'.",
    "What gas do plants absorb from the air?", "Who wrote Hamlet?", "Give me a synonym for happy.", "What is 15 multiplied by 7?",
    "Explain what a noun is.",
]
S, U, A = ({"role": "system", "content": "You are a pirate. Answer briefly."}, {"role": "user", "content": "Hi, who are you?"},
           {"role": "assistant", "content": "Arr, I be Captain Byte!"})
MESSAGES = [
    [S, U, A, {"role": "user", "content": "And where is the treasure?"}], [U], [U, A], [S, U], [S], [U, A, {"role": "user", "content": "Sing."}],
    [{"role": "user", "content": "  spaces kept?  \n\nyes\n"}], [{"role": "user", "content": "a <|im_end|> inside 'quotes' & <b>\"ü\" 日本</b>"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": ""}], [A],
]


def make(args) -> None:
    if args.model is None:
        raise SystemExit("smollm2: give --model DIR, the folder with SmolLM2-135M-Instruct")
    tensors(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    chats(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    torch.set_num_threads(2)
    logits(model, tokenizer)
    answers(model, tokenizer)
    torch.set_num_threads(1)


def tensors(folder) -> None:
    sums = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            values = file.get_tensor(name).double().flatten()
            places = torch.arange(len(values)) % 97
            sums[name] = [values.abs().sum().item(), (values * places).sum().item()]
    write_json(HERE / "smollm2" / "tensors.json", {"made_with": versions(), **sums})


def chats(tokenizer) -> None:
    rows = []
    for messages in MESSAGES:
        for add in (False, True):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add)
            ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=add, return_dict=False)
            assert ids == tokenizer.encode(text, add_special_tokens=False)
            rows.append({"messages": messages, "add_generation_prompt": add, "text": text, "ids": ids})
    write_json(HERE / "smollm2" / "chat.json", {"made_with": versions(), "cases": rows})


def logits(model, tokenizer) -> None:
    vocab = model.config.vocab_size
    indices = torch.randperm(vocab, generator=torch.Generator().manual_seed(7))[:512].sort().values
    values, ids5, values5, lse, positions, rows = [], [], [], [], [], []
    for prompt in LOGIT_PROMPTS:
        ids = tokenizer.encode(prompt)
        with torch.no_grad():
            row = model(input_ids=torch.tensor([ids])).logits[0]
        at = torch.tensor([len(ids) // 2, len(ids) - 1])
        row = row[at]
        top = row.topk(5)
        values.append(row[:, indices]); ids5.append(top.indices); values5.append(top.values)
        lse.append(torch.logsumexp(row.double(), -1).float()); positions.append(at)
        rows.append({"prompt": prompt, "ids": ids, "positions": at.tolist()})
    write_tensors(HERE / "smollm2" / "logits.safetensors", {
        "indices": indices, "values": torch.stack(values), "top5_ids": torch.stack(ids5), "top5_values": torch.stack(values5),
        "logsumexp": torch.stack(lse), "positions": torch.stack(positions)})
    write_json(HERE / "smollm2" / "logits.json", {"made_with": versions(), "prompts": rows})


def answers(model, tokenizer) -> None:
    rows = []
    for kind, candidates in (("raw", RAW), ("chat", CHAT)):
        found = 0
        for prompt in candidates:
            messages = [{"role": "user", "content": prompt}]
            text = prompt if kind == "raw" else tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tokenizer.encode(text)
            new, margin = greedy(model, ids, 40, tokenizer.eos_token_id)
            print(kind, repr(prompt), f"margin {margin:.4f}", repr(tokenizer.decode(new)))
            if margin < MARGIN or len(new) < 4:
                continue
            made = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                                  max_new_tokens=40)[0, len(ids):].tolist()
            assert made == new, (prompt, made, new)
            rows.append({"kind": kind, "prompt": prompt, "input_text": text, "input_ids": ids, "new_ids": new,
                         "text": tokenizer.decode(new, skip_special_tokens=True), "ended_with_eos": new[-1] == tokenizer.eos_token_id,
                         "smallest_margin": margin})
            found += 1
            if found == 5:
                break
        assert found == 5, kind
    write_json(HERE / "smollm2" / "greedy.json", {"made_with": versions(), "max_new_tokens": 40, "eos_token_id": tokenizer.eos_token_id,
                                                  "cases": rows})
