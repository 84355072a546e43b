"""Loads models that we wrote with transformers and compares the logits with those of the models they were read from.

usage: python tests/golden/check_models.py FTREPL
FTREPL, the program, loads every tiny model of tiny/ and families/ and writes it with save_pretrained."""
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent


def main() -> None:
    close = True
    folders = sorted(path.parent for kind in ("tiny", "families") for path in (HERE / kind).glob("*/config.json"))
    for base in folders:
        with tempfile.TemporaryDirectory() as folder:
            script = f'AutoModelForCausalLM::from_pretrained("{base}").save_pretrained("{folder}/model")'
            subprocess.run([sys.argv[1], "-e", script], check=True, stdout=subprocess.DEVNULL)
            model, info = AutoModelForCausalLM.from_pretrained(
                f"{folder}/model", attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
            assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], (base.name, info)
            golden = load_file(base / "golden.safetensors")
            mask = golden["attention_mask"]
            with torch.no_grad():
                logits = model.eval()(input_ids=golden["input_ids"], attention_mask=mask).logits * mask[..., None]
            difference = ((logits - golden["logits"]).abs().max() / golden["logits"].abs().max()).item()
            close &= difference <= 1e-6                     # false for NaN too
            print(f"{base.name:16} {difference:.1e}", flush=True)
    sys.exit(not close)


if __name__ == "__main__":
    main()
