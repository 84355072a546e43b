"""Random numbers, the lesson's TinyModel, and single tensor operations, losses, optimisers and schedules of PyTorch.

usage: python tests/golden/make_golden.py torch
Makes torch_rng.json, python_random.json, tiny_model.json, tensor_ops.json."""
import math
import random
import sys

import torch
import torch.nn.functional as F
from torch import nn, optim
from transformers import get_scheduler

from golden_common import HERE, versions, write_json
from golden_rng import Generator


def numbers(t) -> list:
    return t.detach().tolist()


def make(args) -> None:
    write_json(HERE / "torch_rng.json", torch_rng())
    write_json(HERE / "python_random.json", python_random())
    write_json(HERE / "tiny_model.json", tiny_model())
    write_json(HERE / "tensor_ops.json", tensor_ops())


# ---- random numbers

def close(a, b) -> bool:
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-6


def torch_rng() -> dict:
    made = {"made_with": versions()}
    for seed in (0, 42, 1234567):
        def fresh():
            torch.manual_seed(seed)
            return Generator(seed)

        out = {}
        for n in (5,):
            g = fresh(); out[f"rand({n})"] = numbers(torch.rand(n)); assert out[f"rand({n})"] == g.rand(n)
        for n in (1, 10, 16, 20, 37):
            g = fresh(); out[f"randn({n})"] = numbers(torch.randn(n)); assert close(out[f"randn({n})"], g.randn(n))
        g = fresh(); out["randperm(50)"] = numbers(torch.randperm(50)); assert out["randperm(50)"] == g.randperm(50)
        g = fresh(); out["randint(0,100,(10,))"] = numbers(torch.randint(0, 100, (10,))); assert out["randint(0,100,(10,))"] == g.randint(0, 100, 10)
        g = fresh(); layer = nn.Linear(10, 20)
        out["Linear(10,20).weight"], out["Linear(10,20).bias"] = numbers(layer.weight), numbers(layer.bias)
        bound = 1 / math.sqrt(10)
        assert close(layer.weight.flatten().tolist(), g.uniform(200, bound)) and close(numbers(layer.bias), g.uniform(20, bound))
        g = fresh(); out["Embedding(7,5).weight"] = numbers(nn.Embedding(7, 5).weight)
        assert close(sum(out["Embedding(7,5).weight"], []), g.randn(35))
        g = fresh(); norm = nn.LayerNorm(6); out["LayerNorm(6)"] = {"weight": numbers(norm.weight), "bias": numbers(norm.bias)}
        out["rand(1) after LayerNorm(6)"] = numbers(torch.rand(1)); assert out["rand(1) after LayerNorm(6)"] == g.rand(1)
        g = fresh(); out["dropout(ones(64),0.1)"] = numbers(F.dropout(torch.ones(64), 0.1)); assert close(out["dropout(ones(64),0.1)"], g.dropout_mask(64, 0.1))
        out["rand(1) after dropout"] = numbers(torch.rand(1)); assert out["rand(1) after dropout"] == g.rand(1)
        # a mixed sequence: an odd count keeps half a pair for the next short randn, across a long randn in between
        g = fresh(); sequence = []
        for kind, n in (("randn", 3), ("rand", 2), ("randn", 20), ("randn", 4), ("randperm", 5), ("randn", 17), ("randn", 1)):
            values = numbers(getattr(torch, kind)(n)); assert close(values, getattr(g, kind)(n))
            sequence.append({"call": f"{kind}({n})", "values": values})
        out["sequence"] = sequence
        made[str(seed)] = out
    return made


def python_random() -> dict:
    made = {"python": sys.version.split()[0]}
    for seed in (42, 0, 7):
        random.seed(seed); a = random.sample(range(300), 6); combined = list(range(46)); random.shuffle(combined)
        random.seed(seed); b = random.sample(range(20), 15); combined2 = list(range(115)); random.shuffle(combined2)
        random.seed(seed); c = random.sample(range(30), 3); combined3 = list(range(23)); random.shuffle(combined3)
        random.seed(seed); d = list(range(10)); random.shuffle(d)
        random.seed(seed)
        made[f"seed {seed}"] = {
            "sample(range(300), 6) then shuffle(list(range(46)))": [a, combined], "sample(range(20), 15) then shuffle(list(range(115)))": [b, combined2],
            "sample(range(30), 3) then shuffle(list(range(23)))": [c, combined3], "shuffle(list(range(10)))": d,
            "random() x 3": [random.random() for _ in range(3)], "then getrandbits(32), getrandbits(6), randrange(300)": [
                random.getrandbits(32), random.getrandbits(6), random.randrange(300)],
        }
    return made


# ---- the lesson's first snippet, line by line, after torch.manual_seed(0)

class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(10, 20)
        self.head_a = nn.Linear(20, 1)
        self.head_b = nn.Linear(20, 1)

    def forward(self, x, task="a"):
        features = torch.relu(self.shared(x))
        if task == "a":
            return self.head_a(features)
        return self.head_b(features)


def tiny_model() -> dict:
    made = {"made_with": versions()}
    for seed in (0, 1, 42):
        made[f"seed {seed}"] = tiny_model_run(seed)
        print("TinyModel", seed, made[f"seed {seed}"]["printed"])
    return made


def tiny_model_run(seed: int) -> dict:
    torch.manual_seed(seed)
    model = TinyModel()
    initial = {n: numbers(p) for n, p in model.named_parameters()}
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    task_a_data = [(torch.randn(10), torch.tensor([1.0])) for _ in range(100)]
    phase1 = []
    for x, y in task_a_data:
        loss = nn.MSELoss()(model(x, task="a"), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        phase1.append(loss.item())
    with torch.no_grad():
        before = sum(nn.MSELoss()(model(x, task="a"), y).item() for x, y in task_a_data[:20]) / 20
    task_b_data = [(torch.randn(10) * 0.01, torch.tensor([5.0])) for _ in range(50)]
    optimizer_ft = optim.SGD(model.parameters(), lr=0.5)
    phase2 = []
    for epoch in range(50):
        for x, y in task_b_data:
            loss = nn.MSELoss()(model(x, task="b"), y)
            loss.backward()
            optimizer_ft.step()
            optimizer_ft.zero_grad()
            phase2.append(loss.item())
    with torch.no_grad():
        after = sum(nn.MSELoss()(model(x, task="a"), y).item() for x, y in task_a_data[:20]) / 20
    text = lambda v: v if math.isfinite(v) else repr(v)
    return {
        "printed": [f"Task A loss before fine-tuning: {before:.4f}", f"Task A loss after fine-tuning: {after:.4f}",
                    f"Forgetting ratio: {after / before:.1f}x worse"],
        "before": text(before), "after": text(after), "ratio": text(after / before), "first_x_of_task_a": numbers(task_a_data[0][0]),
        "first_x_of_task_b": numbers(task_b_data[0][0]), "phase1_losses": [text(v) for v in phase1], "phase2_losses_first_100": [text(v) for v in phase2[:100]],
        "phase2_loss_last": text(phase2[-1]), "initial_head_b": [initial["head_b.weight"], initial["head_b.bias"]],
        "final_head_a": numbers(model.head_a.weight), "final_head_b": [text(v) for v in model.head_b.weight[0].tolist()],
    }


# ---- operations

def fixed(shape, seed, scale=1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()


def case(inputs: dict, f, **more) -> dict:
    """The value of f and the gradient of every float input; an array's upstream gradient is the fixed `upstream`."""
    value = f(**inputs)
    out = {"inputs": {k: numbers(v) if torch.is_tensor(v) else v for k, v in inputs.items()}, **more, "value": numbers(value)}
    if value.dim():
        upstream = fixed(value.shape, 99).detach()
        out["upstream"] = numbers(upstream)
        value = (value * upstream).sum()
    value.backward()
    out["grad"] = {k: numbers(v.grad) for k, v in inputs.items() if torch.is_tensor(v) and v.requires_grad}
    return out


def rms_norm(x, weight, eps=1e-5):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def tensor_ops() -> dict:
    row = torch.tensor([-6.0, -2.5, -1.0, -0.1, 0.0, 0.1, 0.5, 1.0, 2.5, 6.0])
    elementwise = lambda f: case({"x": row.clone().requires_grad_()}, f)
    made = {
        "made_with": versions(),
        "mse_loss": case({"a": fixed((3, 4), 1), "b": fixed((3, 4), 2)}, lambda a, b: F.mse_loss(a, b)),
        "cross_entropy": case({"logits": fixed((5, 7), 3, 2.0), "targets": torch.tensor([1, -100, 6, 0, -100])},
                              lambda logits, targets: F.cross_entropy(logits, targets, ignore_index=-100), reduction="mean over targets that are not -100"),
        "cross_entropy_sum": case({"logits": fixed((5, 7), 3, 2.0), "targets": torch.tensor([1, -100, 6, 0, -100])},
                                  lambda logits, targets: F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"), reduction="sum"),
        "kl_div": case({"p_logits": fixed((4, 6), 4, 1.5), "q_logits": fixed((4, 6), 5, 1.5)}, lambda p_logits, q_logits: (
            p_logits.softmax(-1) * (p_logits.log_softmax(-1) - q_logits.log_softmax(-1))).sum(-1).mean(),
            formula="mean over rows of sum softmax(p) (log_softmax(p) - log_softmax(q)), nats"),
        "gelu": elementwise(lambda x: F.gelu(x)), "gelu_tanh": elementwise(lambda x: F.gelu(x, approximate="tanh")),
        "silu": elementwise(lambda x: F.silu(x)), "relu": elementwise(lambda x: torch.relu(x)), "tanh": elementwise(lambda x: torch.tanh(x)),
        "sigmoid": elementwise(lambda x: torch.sigmoid(x)),
        "softmax": case({"x": fixed((3, 5), 6, 2.0)}, lambda x: x.softmax(-1)), "softmax_dim0": case({"x": fixed((3, 5), 6, 2.0)}, lambda x: x.softmax(0)),
        "layer_norm": case({"x": fixed((3, 8), 7), "weight": fixed((8,), 8), "bias": fixed((8,), 9)},
                           lambda x, weight, bias: F.layer_norm(x, (8,), weight, bias, 1e-5), eps=1e-5),
        "rms_norm": case({"x": fixed((3, 8), 10), "weight": fixed((8,), 11)}, rms_norm, eps=1e-5),
        "max_ties": case({"x": torch.tensor([1.0, 3.0, 3.0, 2.0]).requires_grad_()}, lambda x: x.max()),
        "abs_at_zero": case({"x": torch.tensor([-1.0, 0.0, 2.0]).requires_grad_()}, lambda x: x.abs()),
        "clip_grad_norm": clipping(), "optimizers": optimizers(), "schedulers": schedulers(),
    }
    return made


def clipping() -> list:
    out = []
    for scale, limit in ((1.0, 1.0), (1.0, 100.0), (0.1, 1.0), (10.0, 0.5)):
        params = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
        params[0].grad, params[1].grad = fixed((3,), 20, scale).detach(), fixed((2, 2), 21, scale).detach()      # the third has none
        grads = [numbers(p.grad) for p in params[:2]]
        norm = nn.utils.clip_grad_norm_(params, limit)
        out.append({"max_norm": limit, "grads": grads, "norm": norm.item(), "clipped": [numbers(p.grad) for p in params[:2]]})
    return out


def optimizers() -> list:
    """Loss: sum c (p - t)^2 + sum c (q - s)^2; five steps. `q_skipped`: q has no gradient (None) at steps 2 and 4."""
    c, t = torch.tensor([0.5, 2.0, 0.1]), torch.tensor([1.0, -1.0, 3.0])
    d, s = torch.tensor([[1.0, 0.3], [0.01, 5.0]]), torch.tensor([[0.5, 0.5], [-2.0, 0.0]])
    kinds = [
        (optim.SGD, dict(lr=0.1)), (optim.SGD, dict(lr=0.05, momentum=0.9)), (optim.SGD, dict(lr=0.05, momentum=0.9, nesterov=True)),
        (optim.SGD, dict(lr=0.1, weight_decay=0.1)), (optim.SGD, dict(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.05)),
        (optim.SGD, dict(lr=0.05, momentum=0.9, dampening=0.5)),
        (optim.Adam, dict(lr=0.1)), (optim.Adam, dict(lr=0.1, weight_decay=0.1)), (optim.Adam, dict(lr=0.05, betas=(0.8, 0.95), eps=1e-3)),
        (optim.AdamW, dict(lr=0.1)), (optim.AdamW, dict(lr=0.1, weight_decay=0.0)),
        (optim.AdamW, dict(lr=0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1)),
    ]
    out = []
    for skip in (False, True):
        for kind, options in kinds:
            p = nn.Parameter(torch.tensor([2.0, 0.5, -1.0])); q = nn.Parameter(torch.tensor([[0.1, -0.2], [1.0, 2.0]]))
            optimizer = kind([p, q], **options, foreach=False)
            steps = []
            for step in range(1, 6):
                optimizer.zero_grad()
                loss = (c * (p - t) ** 2).sum()
                if not (skip and step in (2, 4)):
                    loss = loss + (d * (q - s) ** 2).sum()
                loss.backward()
                optimizer.step()
                steps.append({"loss": loss.item(), "p": numbers(p), "q": numbers(q)})
            out.append({"optimizer": kind.__name__, "options": options, "q_skipped": skip, "steps": steps})
    return [{"c": numbers(c), "t": numbers(t), "d": numbers(d), "s": numbers(s), "p0": [2.0, 0.5, -1.0], "q0": [[0.1, -0.2], [1.0, 2.0]]}] + out


def schedulers() -> list:
    """Learning rates with lr 0.01: `lr[k]` is the rate that optimiser step k (from 0) uses; 21 numbers for 20 steps."""
    out = []
    for name in ("linear", "cosine", "constant", "constant_with_warmup"):
        for warmup in (4, 0):
            optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
            scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=20)
            rates = [scheduler.get_last_lr()[0]]
            for _ in range(20):
                optimizer.step(); scheduler.step()
                rates.append(scheduler.get_last_lr()[0])
            out.append({"name": name, "num_warmup_steps": warmup, "num_training_steps": 20, "lr": rates})
    return out
