"""The loop of the lesson's first step in PyTorch, a network of 262 numbers: the peer of workloads/tiny.rhai.

usage: tiny.py [repeats=5] [threads=2]"""
import time

import torch
from torch import nn

from common import arguments, finish

given = arguments(repeats=5, threads=2)
torch.set_num_threads(given.threads)


class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(10, 20)
        self.head_a = nn.Linear(20, 1)
        self.head_b = nn.Linear(20, 1)

    def forward(self, x, task):
        features = torch.relu(self.shared(x))
        return self.head_a(features) if task == "a" else self.head_b(features)


def train(model, data, task, lr):
    """One pass of gradient descent over the data; returns its seconds."""
    start = time.perf_counter()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for x, target in data:
        loss = nn.MSELoss()(model(x, task), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


@torch.no_grad()
def task_a_loss(model, data):
    return sum(nn.MSELoss()(model(x, "a"), target).item() for x, target in data[:20]) / 20


seconds = []
for _ in range(given.repeats):
    torch.manual_seed(0)
    model = TinyModel()
    task_a_data = [(torch.randn(10), torch.tensor([1.0])) for _ in range(100)]
    task_b_data = [(torch.randn(10) * 0.01, torch.tensor([5.0])) for _ in range(50)]
    spent = train(model, task_a_data, "a", 0.1)
    before = task_a_loss(model, task_a_data)
    spent += train(model, task_b_data * 50, "b", 0.5)
    seconds.append(spent / 2600)
finish(seconds=seconds, ratio=task_a_loss(model, task_a_data) / before)
