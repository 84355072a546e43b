"""Loads GGUF files that we wrote with llama.cpp and compares its logits with those of transformers.

usage: python tests/golden/check_gguf.py FTREPL
Needs llama-cpp-python. FTREPL, the program, writes every tiny model of families/ that llama.cpp can hold, in f32, and SmolLM2 with its tokenizer
and chat template in f16, q8_0 and q4_0; prints the largest difference of the logits, relative to the largest logit."""
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from llama_cpp import Llama
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
FAMILIES = ["qwen2", "qwen3", "gemma", "phi3", "phi3_longrope", "phi3_partial", "olmo2", "granite", "gpt2", "llama_yarn"]


def logits(model, ids) -> numpy.ndarray:
    model.reset()
    model.eval(ids)
    return numpy.array(model.scores[:len(ids)])


def run(program: str, script: str) -> None:
    subprocess.run([program, "-e", script], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    program = sys.argv[1]
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in ["llama", "llama3", "llama_bias", "llama_tied", *FAMILIES]:
            base = HERE / ("tiny" if name.startswith("llama") and name != "llama_yarn" else "families") / name
            path = f"{folder}/{name}.gguf"
            run(program, f'AutoModelForCausalLM::from_pretrained("{base}").save_gguf("{path}", #{{ dtype: "f32" }})')
            golden = load_file(base / "golden.safetensors")
            model = Llama(path, n_ctx=32, n_batch=32, logits_all=True, verbose=False)
            # llama.cpp computes Phi-3 without its window, which is of 8 tokens here.
            seen = 8 if name == "phi3" else 20
            expected = golden["logits"][0][:seen]
            difference = abs(logits(model, golden["input_ids"][0].tolist())[:seen] - expected).max() / abs(expected).max()
            # Logits that are no numbers are the worst of all.
            worst = max(worst, numpy.nan_to_num(difference, nan=numpy.inf))
            print(f"{name:16} {difference:.2e}", flush=True)
            model.close()
        for dtype in ["f16", "q8_0", "q4_0"]:
            path = f"{folder}/smollm2.gguf"
            run(program, f'AutoModelForCausalLM::from_pretrained("smollm2-135m-instruct").save_gguf("{path}", #{{ dtype: "{dtype}" }})')
            model = Llama(path, n_ctx=512, verbose=False)
            answer = model.create_chat_completion([{"role": "user", "content": "What is the capital of France?"}], temperature=0, max_tokens=24)
            print(dtype, repr(answer["choices"][0]["message"]["content"]))
            text = "Hello, world! naïve 日本 <|im_start|>"
            print(dtype, model.tokenize(text.encode(), add_bos=False, special=True))
            model.close()
    sys.exit(bool(worst > 5e-3))


if __name__ == "__main__":
    main()
