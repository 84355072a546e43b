"""Elastic weight consolidation on tiny/llama: the lesson's class as written, the empirical Fisher per sequence, and the penalty.

usage: python tests/golden/make_golden.py ewc      (after `tiny`)
Makes ewc.safetensors (`lesson.<parameter>`, `empirical.<parameter>`, gradients of the penalty) and ewc.json (sequences, penalties). The
perturbation of the parameters is a formula: element k of a parameter, counted from 0 in row-major order, moves by
float32(0.01 * sin(k + 1))."""
import torch
from torch import nn

from golden_common import HERE, versions, write_json, write_tensors
from golden_tiny import load

IMPORTANCE = 5000.0
GRADIENTS_OF = ("model.layers.0.self_attn.q_proj.weight", "model.layers.2.post_attention_layernorm.weight")


class EWCRegularizer:
    """The lesson's class, line by line."""

    def __init__(self, model: nn.Module, importance: float = 5000.0):
        self.importance = importance
        self.original_params = {}
        self.fisher = {}
        for name, param in model.named_parameters():
            self.original_params[name] = param.data.clone()
            self.fisher[name] = torch.zeros_like(param.data)

    def update_fisher(self, model: nn.Module, dataloader, num_batches: int = 100):
        model.eval()
        for i, batch in enumerate(dataloader):
            if i >= num_batches:
                break
            output = model(**batch)
            loss = output.loss
            loss.backward()
            for name, param in model.named_parameters():
                if param.grad is not None:
                    self.fisher[name] += param.grad.data.clone() ** 2
        for name in self.fisher:
            self.fisher[name] /= num_batches

    def ewc_loss(self, model: nn.Module) -> torch.Tensor:
        penalty = torch.tensor(0.0)
        for name, param in model.named_parameters():
            if name in self.fisher:
                diff = param - self.original_params[name].to(param.device)
                penalty += (self.fisher[name].to(param.device) * diff ** 2).sum()
        return self.importance * penalty


def sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(600)
    return [torch.randint(3, 96, (n,), generator=generator).tolist() for n in (8, 6, 10, 7, 9, 10)]


def batch(rows: list[list[int]]) -> dict:
    longest = max(map(len, rows))
    return {"input_ids": torch.tensor([r + [0] * (longest - len(r)) for r in rows]),
            "attention_mask": torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows]),
            "labels": torch.tensor([r + [-100] * (longest - len(r)) for r in rows])}


def empirical(rows) -> dict:
    """The mean over sequences of the squared gradient of each sequence's mean-token loss, gradients cleared in between."""
    model = load(HERE / "tiny" / "llama")
    fisher = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for row in rows:
        model.zero_grad()
        model(**batch([row])).loss.backward()
        for n, p in model.named_parameters():
            fisher[n] += p.grad ** 2 / len(rows)
    return fisher


def penalty(fisher: dict) -> tuple[float, dict]:
    model = load(HERE / "tiny" / "llama")
    ewc = EWCRegularizer(model, IMPORTANCE)
    ewc.fisher = fisher
    assert ewc.ewc_loss(model).item() == 0.0
    with torch.no_grad():
        for p in model.parameters():
            k = torch.arange(1, p.numel() + 1, dtype=torch.float64)
            p.add_((0.01 * torch.sin(k)).float().reshape(p.shape))
    value = ewc.ewc_loss(model)
    value.backward()
    return value.item(), {n: p.grad for n, p in model.named_parameters()}


def make(args) -> None:
    rows = sequences()
    loader = [batch(rows[i:i + 2]) for i in (0, 2, 4)]
    lesson = {}
    for asked in (3, 2, 100):
        model = load(HERE / "tiny" / "llama")
        ewc = EWCRegularizer(model, IMPORTANCE)
        ewc.update_fisher(model, loader, num_batches=asked)
        lesson[asked] = ewc.fisher
    right = empirical(rows)
    tensors, facts = {}, {"made_with": versions(), "sequences": rows, "batches_of": 2, "importance": IMPORTANCE,
                          "perturbation": "element k (row-major, from 0) of each parameter moves by float32(0.01 * sin(k + 1))"}
    for kind, fisher in (("lesson", lesson[3]), ("empirical", right)):
        value, grads = penalty(fisher)
        tensors |= {f"{kind}.{n}": f for n, f in fisher.items()}
        tensors |= {f"penalty_grad.{kind}.{n}": grads[n] for n in GRADIENTS_OF}
        facts[f"{kind}_penalty"] = value
        facts[f"{kind}_fisher_sum"] = sum(f.double().sum().item() for f in fisher.values())
    for asked in (2, 100):
        facts[f"lesson_penalty_num_batches_{asked}"] = penalty(lesson[asked])[0]
    print({k: v for k, v in facts.items() if "penalty" in k or "sum" in k})
    write_tensors(HERE / "ewc.safetensors", tensors)
    write_json(HERE / "ewc.json", facts)
