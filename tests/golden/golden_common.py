"""What the golden scripts share: fixed threads and seeds, and writers of JSON and safetensors with stable contents.

Imported by make_golden.py and its sections; run nothing here directly."""
import json
import os
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import transformers
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.utils.logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent


def versions() -> dict:
    """The versions that made a file, for its `made_with` field."""
    import accelerate
    import peft

    return {
        "torch": torch.__version__, "transformers": transformers.__version__,
        "peft": peft.__version__, "accelerate": accelerate.__version__,
    }


def write_json(path: Path, value) -> None:
    """Writes `value` with one top-level entry (or list item) a line, so that files stay small and differences readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, dict):
        lines = [f"{json.dumps(k)}: {_lines(v)}" for k, v in value.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    else:
        text = _lines(value) + "\n"
    json.loads(text, parse_constant=_refuse)
    path.write_text(text)


def _lines(v) -> str:
    if isinstance(v, list) and v and isinstance(v[0], (dict, list)):
        return "[\n  " + ",\n  ".join(json.dumps(x) for x in v) + "\n]"
    if isinstance(v, dict) and any(isinstance(x, dict) for x in v.values()):
        return "{\n  " + ",\n  ".join(f"{json.dumps(k)}: {json.dumps(x)}" for k, x in v.items()) + "\n}"
    return json.dumps(v)


def _refuse(name):
    raise ValueError(f"{name} is not JSON: store it as a string")


def write_tensors(path: Path, tensors: dict) -> None:
    """Writes a safetensors file; names sorted, tensors detached and contiguous."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: tensors[k].detach().clone().contiguous() for k in sorted(tensors)}, str(path))
    os.chmod(path, 0o644)


def greedy(model, prompt: list[int], steps: int, eos: int | None = None) -> tuple[list[int], float]:
    """Greedy continuation of one prompt with the KV cache; also the smallest gap between the best two logits met."""
    ids, cache, feed, margin = [], None, torch.tensor([prompt]), float("inf")
    with torch.no_grad():
        for _ in range(steps):
            out = model(input_ids=feed, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            top = out.logits[0, -1].float().topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            ids.append(top.indices[0].item())
            if ids[-1] == eos:
                break
            feed = torch.tensor([[ids[-1]]])
    return ids, margin
