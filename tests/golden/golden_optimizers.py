"""Optimisers beside Adam and SGD by their authors' code, every schedule of transformers, torch's plateau and its average of weights.

usage: python tests/golden/make_golden.py optimizers      (pip install schedulefree lion-pytorch bitsandbytes)
Makes optimizers.json and optimizers.safetensors.

The problem: five parameters, `wide` [6, 10], `tall` [12, 5], `vector` [9], `large` [50, 100] (5000 elements: 8-bit moments) and `cube` [2, 5, 4],
and 20 gradients for each that depend on nothing but the seed. Every option set runs all 20 steps; the parameters are noted after each of the
first two steps (except `large`) and after the last."""
import importlib.metadata
import math

import torch
from torch import nn, optim
from torch.optim import lr_scheduler, swa_utils
from transformers import get_scheduler
from transformers.optimization import Adafactor

from golden_common import HERE, versions, write_json, write_tensors

SHAPES = {"wide": (6, 10), "tall": (12, 5), "vector": (9,), "large": (50, 100), "cube": (2, 5, 4)}
STEPS = 20
NOTED = (1, 2, STEPS)


def problem() -> dict:
    generator = torch.Generator().manual_seed(11)
    made = {}
    for name, shape in SHAPES.items():
        made[f"start.{name}"] = torch.randn(shape, generator=generator) * 0.5
        # Gradients of very different sizes, as a network's: each row has a scale of its own, and steps are alike.
        scale = 10.0 ** torch.empty((shape[0],) + (1,) * (len(shape) - 1)).uniform_(-3, 0, generator=generator)
        common = torch.randn(shape, generator=generator)
        made[f"gradients.{name}"] = scale * (common + torch.randn((STEPS, *shape), generator=generator))
    return made


def run(tensors: dict, build, label: str, names, out: dict) -> None:
    """Runs an optimiser over the parameters `names` and notes them; a schedule-free one in both modes."""
    parameters = {n: nn.Parameter(tensors[f"start.{n}"].clone()) for n in names}
    optimizer = build(list(parameters.values()))
    free = hasattr(optimizer, "eval")
    if free:
        optimizer.train()
    for step in range(1, STEPS + 1):
        for name, parameter in parameters.items():
            parameter.grad = tensors[f"gradients.{name}"][step - 1].clone()
        optimizer.step()
        if step in NOTED:
            noted = {n: p for n, p in parameters.items() if n != "large" or step == STEPS}
            out.update({f"{label}.{step}.{n}": p.detach().clone() for n, p in noted.items()})
            if free:
                optimizer.eval()
                out.update({f"{label}.{step}.eval.{n}": p.detach().clone() for n, p in noted.items()})
                optimizer.train()


class ExactMuon(optim.Muon):
    """torch's Muon with its iteration in float32 instead of bfloat16: in the step `Tensor.bfloat16` makes a copy in float32."""

    def step(self, closure=None):
        narrow, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, lambda tensor: tensor.float().clone()
        try:
            return super().step(closure)
        finally:
            torch.Tensor.bfloat16 = narrow


def quantise(values, code, absmax_out, codes_out, blocksize) -> None:
    """Blockwise quantisation to the nearest number, as bitsandbytes' plain PyTorch has it. Its library for CPUs is coarse near 0 (1e-9
    becomes 1.6e-5), and is not used here."""
    padded = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % blocksize)).view(-1, blocksize)
    absmax = padded.abs().amax(1)
    scaled = padded / torch.where(absmax > 0, absmax, 1.0)[:, None]
    codes = torch.bucketize(scaled.flatten()[:values.numel()], (code[:-1] + code[1:]) / 2)
    codes_out.copy_(codes.view(values.shape))
    absmax_out.copy_(absmax)


def optimizers(tensors: dict, out: dict) -> list:
    import bitsandbytes
    import bitsandbytes.backends.cpu.ops
    import schedulefree
    from lion_pytorch import Lion

    cases = []

    def case(kind: str, label: str, build, options: dict, names=tuple(SHAPES)):
        run(tensors, lambda ps: build(ps, **options), label, names, out)
        cases.append({"optimizer": kind, "label": label, "options": options, "parameters": list(names)})

    for at, options in enumerate([dict(lr=1e-2), dict(lr=3e-3, betas=(0.8, 0.95), weight_decay=0.5)]):
        case("Lion", f"lion{at}", Lion, options)
    for at, options in enumerate([
        dict(), dict(warmup_init=True, weight_decay=0.1), dict(lr=1e-2, scale_parameter=False, relative_step=False),
        dict(lr=1e-2, scale_parameter=True, relative_step=False, beta1=0.9, weight_decay=0.1),
        dict(lr=5e-3, scale_parameter=False, relative_step=False, clip_threshold=0.5, decay_rate=-0.5, eps=(1e-8, 1e-2)),
    ]):
        case("Adafactor", f"adafactor{at}", Adafactor, options)
    for at, options in enumerate([
        dict(lr=1e-2), dict(lr=1e-2, nesterov=False, momentum=0.8, weight_decay=0.0), dict(lr=5e-3, adjust_lr_fn="match_rms_adamw"),
        dict(lr=5e-3, adjust_lr_fn="spectral_unclamped", ns_steps=3, ns_coefficients=(2.0, -1.5, 0.5), weight_decay=0.2),
    ]):
        matrices = ("wide", "tall", "large")
        case("Muon", f"muon{at}", ExactMuon, options, matrices)
        run(tensors, lambda ps: optim.Muon(ps, **options), f"muon{at}_bf16", matrices, out)
    for at, options in enumerate([
        dict(lr=1e-2), dict(lr=1e-2, warmup_steps=5, weight_decay=0.1), dict(lr=5e-3, betas=(0.95, 0.98), r=1.0, weight_lr_power=1.0, eps=1e-4),
    ]):
        case("AdamWScheduleFree", f"schedule_free{at}", lambda ps, **o: schedulefree.AdamWScheduleFree(ps, **o, foreach=False), options)
    bitsandbytes.backends.cpu.ops._quant_blockwise_fp32_direct = quantise
    for at, options in enumerate([dict(lr=1e-2), dict(lr=5e-3, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-6)]):
        case("AdamW8bit", f"adamw8bit{at}", bitsandbytes.optim.AdamW8bit, options)
    return cases


def schedulers() -> list:
    """`lr[k]` is the rate that optimiser step k (from 0) uses, of lr 0.01; 25 numbers, 5 beyond the 20 steps of the training."""
    kinds = [
        ("linear", {}), ("cosine", {}), ("cosine", dict(num_cycles=1.5)), ("cosine_with_restarts", {}), ("cosine_with_restarts", dict(num_cycles=3)),
        ("polynomial", {}), ("polynomial", dict(lr_end=1e-3, power=2.0)), ("constant", {}), ("constant_with_warmup", {}),
        ("inverse_sqrt", {}), ("inverse_sqrt", dict(timescale=7)), ("cosine_with_min_lr", dict(min_lr=1e-3)),
        ("cosine_with_min_lr", dict(min_lr_rate=0.2, num_cycles=0.75)), ("cosine_warmup_with_min_lr", dict(min_lr=1e-3)),
        ("cosine_warmup_with_min_lr", dict(min_lr_rate=0.1, warmup_lr_rate=0.3)), ("warmup_stable_decay", dict(num_decay_steps=6)),
        ("warmup_stable_decay", dict(num_decay_steps=5, decay_type="linear", warmup_type="cosine", min_lr_ratio=0.1)),
        ("warmup_stable_decay", dict(num_decay_steps=5, num_stable_steps=4, decay_type="1-sqrt", warmup_type="1-sqrt", min_lr_ratio=0.05)),
        ("warmup_stable_decay", dict(num_decay_steps=6, num_cycles=1.0)),
    ]
    out = []
    for name, options in kinds:
        for warmup in (4, 0):
            optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
            scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=20, scheduler_specific_kwargs=options)
            rates = [scheduler.get_last_lr()[0]]
            for _ in range(24):
                optimizer.step(); scheduler.step()
                rates.append(scheduler.get_last_lr()[0])
            out.append({"name": name, "options": options, "num_warmup_steps": warmup, "num_training_steps": 20, "lr": rates})
    return out


def plateau() -> list:
    """The rate after each value of a metric that falls, rests, falls a little and rises."""
    metrics = [1.0, 0.9, 0.8, 0.8, 0.8, 0.79999, 0.81, 0.79, 0.79, 0.85, 0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.71, 0.72, 0.73, 0.74]
    out = []
    for options in [
        dict(), dict(patience=1), dict(patience=0, factor=0.5, cooldown=2), dict(patience=1, threshold=0.05, threshold_mode="abs"),
        dict(patience=0, mode="max", factor=0.3), dict(patience=0, factor=0.5, min_lr=2e-3), dict(patience=0, factor=0.5, eps=2e-3),
        dict(patience=1, mode="max", threshold=0.02, threshold_mode="abs"),
    ]:
        optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
        scheduler = get_scheduler("reduce_lr_on_plateau", optimizer, scheduler_specific_kwargs=options)
        assert isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        rates = []
        for metric in metrics:
            scheduler.step(metric)
            rates.append(optimizer.param_groups[0]["lr"])
        out.append({"options": options, "metrics": metrics, "lr": rates})
    return out


def ema(tensors: dict, out: dict) -> list:
    """SGD steps; the average after each noted step."""
    cases = []
    for decay in (0.999, 0.5):
        model = nn.ParameterDict({n: nn.Parameter(tensors[f"start.{n}"].clone()) for n in ("wide", "vector")})
        average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(decay))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in range(1, STEPS + 1):
            for name, parameter in model.items():
                parameter.grad = tensors[f"gradients.{name}"][step - 1].clone()
            optimizer.step()
            average.update_parameters(model)
            if step in NOTED:
                out.update({f"ema{decay}.{step}.{name}": p.detach().clone() for name, p in average.module.items()})
        cases.append({"decay": decay, "label": f"ema{decay}"})
    return cases


def make(args) -> None:
    tensors = problem()
    out = dict(tensors)
    made_with = versions() | {n: importlib.metadata.version(n) for n in ("schedulefree", "lion-pytorch", "bitsandbytes")}
    cases = optimizers(tensors, out)
    for at in range(4):
        apart = max((out[f"muon{at}.{STEPS}.{n}"] - out[f"muon{at}_bf16.{STEPS}.{n}"]).abs().max().item() for n in ("wide", "tall", "large"))
        moved = max((out[f"muon{at}.{STEPS}.{n}"] - tensors[f"start.{n}"]).abs().max().item() for n in ("wide", "tall", "large"))
        print(f"muon{at}: float32 and bfloat16 apart by {apart:.2e}, moved by {moved:.2e}")
    averages = ema(tensors, out)
    assert all(math.isfinite(t.abs().max().item()) for t in out.values())
    write_tensors(HERE / "optimizers.safetensors", out)
    write_json(HERE / "optimizers.json", {
        "made_with": made_with, "steps": STEPS, "noted": list(NOTED), "optimizers": cases, "schedulers": schedulers(), "plateau": plateau(),
        "ema": averages,
    })
