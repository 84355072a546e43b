"""The way back: an adapter and a model that ftrepl wrote, loaded by PEFT and transformers, give ftrepl's logits.

usage: python tests/golden/check_adapter.py FTREPL      (FTREPL: the built program; pip install torch transformers peft)
Trains an adapter on tiny/llama for five steps, saves it, merges it, saves the model, and compares both with PyTorch."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
SCRIPT = """
let model = AutoModelForCausalLM::from_pretrained(param("base", ""));
let ids = [5, 17, 40, 3, 88, 61, 2, 9];
manual_seed(0);
let peft_model = get_peft_model(model, LoraConfig(#{ r: 4, lora_alpha: 16, target_modules: TARGETS, use_rslora: RSLORA, bias: "all" }));
let optimizer = optim::AdamW(peft_model.parameters().filter(|p| p.requires_grad), #{ lr: 0.05 });
for step in 0..5 { peft_model.forward(ids, #{ labels: ids }).loss.backward(); optimizer.step(); optimizer.zero_grad(); }
peft_model.save_pretrained("adapter");
let adapted = peft_model.forward(ids).logits.to_list();
let merged = peft_model.merge_and_unload();
merged.save_pretrained("merged");
#{ ids: ids, adapted: adapted, merged: merged.forward(ids).logits.to_list() }
"""

for base in ("llama", "llama_bias", "llama_tied", "mistral"):
    for targets, rslora in (('["q_proj", "v_proj"]', "false"), ('"all-linear"', "true")):
        with tempfile.TemporaryDirectory() as out:
            script = Path(out, "script.rhai")
            script.write_text(SCRIPT.replace("TARGETS", targets).replace("RSLORA", rslora))
            command = [sys.argv[1], "run", script, "--set", f"base={HERE / 'tiny' / base}", "--out", out, "--json"]
            ours = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            ids = torch.tensor([ours["ids"]])
            with torch.no_grad():
                model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(HERE / "tiny" / base), f"{out}/adapter").eval()
                adapted = (model(ids).logits - torch.tensor(ours["adapted"])).abs().max().item()
                whole = AutoModelForCausalLM.from_pretrained(f"{out}/merged").eval()
                merged = (whole(ids).logits - torch.tensor(ours["merged"])).abs().max().item()
            largest = torch.tensor(ours["adapted"]).abs().max().item()
            print(f"{base:11} {targets:22} adapter differs by {adapted:.1e}, merged model by {merged:.1e}; largest logit {largest:.1f}")
            assert adapted < 1e-5 * max(1, largest) and merged < 1e-5 * max(1, largest), "ftrepl's files do not give its logits in PyTorch"
