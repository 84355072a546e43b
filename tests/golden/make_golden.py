"""Makes the golden numbers that the Rust tests compare with, from PyTorch, transformers, PEFT and SciPy.

usage: python tests/golden/make_golden.py SECTION... [--model DIR] [--gemma FILE]
  tiny         tiny/                 tiny models: logits, losses, gradients, greedy continuations
  smollm2      smollm2/tensors, logits, greedy, chat      needs --model, the folder that convert_gguf.py makes
  tokens       smollm2/tokens.json   needs --model
  families     families/             tiny models of the other families, each with a LoRA adapter and ten steps of it
  gguf         gguf/                 sentencepiece tokenizers in GGUF files (--gemma for the second)
  peft         peft/                 variants of LoRA, LoRA+, several adapters at once (needs families/)
  adapter      adapter/              LoRA adapters written by PEFT (needs tiny/; print_trainable needs --model)
  trainer      trainer/              20-step runs of transformers' Trainer (pip install schedulefree bitsandbytes)
  trainer_options  trainer_options/  the best model, early stopping, smoothed labels, dropped batches (needs trainer/)
  torch        torch_rng.json, python_random.json, tiny_model.json, tensor_ops.json
  optimizers   optimizers.safetensors, optimizers.json        (pip install schedulefree lion-pytorch bitsandbytes)
  ewc          ewc.safetensors, ewc.json         (needs tiny/)
  stats        stats.json            McNemar, Wilson, Newcombe (needs scipy)
  all          every section
Outputs go beside this file. Everything is seeded and runs on one thread: a second run writes the same bytes.
README.md describes the files."""
import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

SECTIONS = {
    "tiny": "golden_tiny", "smollm2": "golden_smollm2", "tokens": "golden_tokens", "adapter": "golden_adapter",
    "trainer": "golden_trainer", "trainer_options": "golden_trainer_options", "torch": "golden_torch", "optimizers": "golden_optimizers", "ewc": "golden_ewc", "stats": "golden_stats",
    "families": "golden_families", "peft": "golden_peft", "gguf": "golden_gguf",
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="+", choices=[*SECTIONS, "all"], metavar="SECTION")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct in the Hugging Face layout")
    parser.add_argument("--gemma", type=Path, help="gemma-3-270m-q4_k_m.gguf")
    options = parser.parse_args()
    for section in SECTIONS if "all" in options.sections else options.sections:
        importlib.import_module(SECTIONS[section]).make(options)
