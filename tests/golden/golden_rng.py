"""PyTorch's CPU random numbers in plain Python: the rules that a reimplementation has to follow, checked against torch by golden_torch.py.

Found by comparing with torch 2.14 (x86-64). Every draw comes from one MT19937 stream, seeded by init_genrand(seed & 0xffffffff).

- 64-bit draws take two 32-bit draws, the first is the high half.
- rand, uniform_ (float32): the low 24 bits of one 32-bit draw, times 2^-24; uniform_(a, b) = that * (b - a) + a.
- randn, normal_ of fewer than 16 numbers: one at a time in float64, Box-Muller on two 53-bit uniforms u1, u2: r = sqrt(-2 ln(1 - u2)),
  t = 2 pi u1; r cos t is given, r sin t is kept by the generator for the next such call.
- randn of 16 or more: fill with rand; then for each full block of 16, with u1 = 1 - x[j], u2 = x[j + 8], j < 8, in float32: x[j] = r cos(2 pi u2),
  x[j + 8] = r sin(2 pi u2), r = sqrt(-2 ln u1). If the count is no multiple of 16, the last 16 numbers are filled with fresh rand and
  transformed again. The kept number of the one-at-a-time path is neither used nor dropped.
- randperm(n): for i in 0 .. n - 2 swap x[i] with x[i + (u32 mod (n - i))].      randint(low, high): low + u32 mod (high - low).
- dropout: keeps where a 53-bit uniform < 1 - p, and divides by 1 - p (one 64-bit draw an element).
- nn.Linear: weight uniform in +-1/sqrt(in), then bias likewise; nn.Embedding: randn; nn.LayerNorm: nothing is drawn."""
import math

import numpy as np


class Generator:
    """torch.Generator for the CPU."""

    def __init__(self, seed: int):
        self.state, self.at, self.kept = [seed & 0xFFFFFFFF], 624, None
        for i in range(1, 624):
            last = self.state[-1]
            self.state.append((1812433253 * (last ^ (last >> 30)) + i) & 0xFFFFFFFF)

    def u32(self) -> int:
        if self.at == 624:
            s = self.state
            for k in range(624):
                y = (s[k] & 0x80000000) | (s[(k + 1) % 624] & 0x7FFFFFFF)
                s[k] = s[(k + 397) % 624] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)
            self.at = 0
        y = self.state[self.at]
        self.at += 1
        y ^= y >> 11
        y ^= (y << 7) & 0x9D2C5680
        y ^= (y << 15) & 0xEFC60000
        return y ^ (y >> 18)

    def u64(self) -> int:
        high = self.u32()
        return (high << 32) | self.u32()

    def uniform32(self):
        return np.float32((self.u32() & 0xFFFFFF) * 2.0**-24)

    def uniform53(self) -> float:
        return (self.u64() & ((1 << 53) - 1)) * 2.0**-53

    def rand(self, n: int) -> list[float]:
        return [float(self.uniform32()) for _ in range(n)]

    def uniform(self, n: int, bound: float) -> list[float]:
        return [float(np.float32(self.uniform32() * np.float32(2 * bound) - np.float32(bound))) for _ in range(n)]

    def _normal(self) -> float:
        if self.kept is not None:
            value, self.kept = self.kept, None
            return value
        u1, u2 = self.uniform53(), self.uniform53()
        r, t = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self.kept = r * math.sin(t)
        return r * math.cos(t)

    def randn(self, n: int) -> list[float]:
        if n < 16:
            return [self._normal() for _ in range(n)]
        x = [self.uniform32() for _ in range(n)]

        def block(at):
            for j in range(at, at + 8):
                r, t = np.sqrt(np.float32(-2) * np.log(np.float32(1) - x[j])), np.float32(2 * math.pi) * x[j + 8]
                x[j], x[j + 8] = r * np.cos(t), r * np.sin(t)

        for at in range(0, n - 15, 16):
            block(at)
        if n % 16:
            for j in range(n - 16, n):
                x[j] = self.uniform32()
            block(n - 16)
        return [float(v) for v in x]

    def randperm(self, n: int) -> list[int]:
        x = list(range(n))
        for i in range(n - 1):
            j = i + self.u32() % (n - i)
            x[i], x[j] = x[j], x[i]
        return x

    def randint(self, low: int, high: int, n: int) -> list[int]:
        return [low + self.u32() % (high - low) for _ in range(n)]

    def dropout_mask(self, n: int, p: float) -> list[float]:
        return [float(np.float32(1) / np.float32(1 - p)) if self.uniform53() < 1 - p else 0.0 for _ in range(n)]
