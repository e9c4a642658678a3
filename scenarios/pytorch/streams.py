"""The built-in step's random streams in PyTorch: the same seed gives the same weights and tokens on both sides.

SplitMix64 with normal variates by Box & Muller, as in model/src/random.rs: a counter makes every draw, so a whole tensor is
drawn at once, on any device. It may not know the model or the protocol.
"""

import torch

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
DATA_STREAM = 1 << 32  # weights draw from the streams below, the tokens of step i from this + i
CHUNK = 1 << 22  # draws at a time: what a chunk needs in between stays below 300 MB


def signed(value):
    """The same 64 bits as the signed integer that PyTorch calculates with."""
    return value - (1 << 64) if value >> 63 else value


def mix(value):
    """SplitMix64's finaliser, of an integer."""
    value = ((value ^ (value >> 30)) * FACTORS[0]) & MASK
    value = ((value ^ (value >> 27)) * FACTORS[1]) & MASK
    return value ^ (value >> 31)


def start(seed, stream):
    """The state before the first draw of a stream."""
    return mix((mix((seed + GOLDEN) & MASK) + stream * GOLDEN) & MASK)


def uniforms(seed, stream, first, count, device):
    """Draws `first` to `first + count` of a stream: uniform in [0, 1), 53 bits, fp64."""

    def shifted(values, bits):  # PyTorch shifts the sign in; these are 64 plain bits
        return (values >> bits) & ((1 << (64 - bits)) - 1)

    index = torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device)
    values = index * signed(GOLDEN) + signed(start(seed, stream))
    values = (values ^ shifted(values, 30)) * signed(FACTORS[0])
    values = (values ^ shifted(values, 27)) * signed(FACTORS[1])
    values = values ^ shifted(values, 31)
    return shifted(values, 11).to(torch.float64) * 2.0**-53


def fill_normal(target, std, seed, stream):
    """Fills a tensor with the stream's normal variates × std, rounded to fp32 and then to the tensor's dtype."""
    flat = target.view(-1)
    for first in range(0, flat.numel(), CHUNK):
        count = min(CHUNK, flat.numel() - first)
        pairs = uniforms(seed, stream, first, count + count % 2, target.device).view(-1, 2)
        radius = (-2.0 * (1.0 - pairs[:, 0]).log()).sqrt()
        angle = pairs[:, 1] * (2.0 * torch.pi)
        normal = torch.stack((radius * angle.cos(), radius * angle.sin()), 1).view(-1)[:count]
        flat[first : first + count] = (normal * std).to(torch.float32).to(target.dtype)


class Tokens:
    """The batches of the built-in data `zipf`: ids and targets of step i, drawn on the device some hundred steps at a time."""

    MEMORY = 32 << 20  # bytes of batches that are kept ready

    def __init__(self, vocab, batch_size, seq_len, seed, device):
        total = 0.0
        for rank in range(1, vocab + 1):  # summed in order: Python's own sum() compensates and would round otherwise
            total += 1.0 / rank
        shares, share = [], 0.0
        for rank in range(1, vocab + 1):
            share += 1.0 / rank / total
            shares.append(share)
        self.shares = torch.tensor(shares, dtype=torch.float64, device=device)
        self.batch_size, self.seq_len, self.seed, self.device = batch_size, seq_len, seed, device
        self.ahead = min(256, max(1, self.MEMORY // (16 * batch_size * seq_len)))
        self.first, self.ids, self.targets = None, None, None

    def draw(self, step):
        """The tokens of one step, (B, S + 1)."""
        count = self.batch_size * (self.seq_len + 1)
        draws = uniforms(self.seed, DATA_STREAM + step, 0, count, self.device)
        tokens = torch.searchsorted(self.shares, draws, right=True).clamp_(max=len(self.shares) - 1)
        return tokens.view(self.batch_size, self.seq_len + 1)

    def batch(self, step):
        """Ids and targets of a step, (B, S) each."""
        if self.first is None or not self.first <= step < self.first + self.ahead:
            drawn = torch.stack([self.draw(step + i) for i in range(self.ahead)])
            self.ids, self.targets = drawn[:, :, :-1].contiguous(), drawn[:, :, 1:].contiguous()
            self.first = step
        return self.ids[step - self.first], self.targets[step - self.first]
