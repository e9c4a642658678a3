"""The built-in step's model in PyTorch, written as one would there, and the training step over it.

Decoder-only, tied embeddings, RMSNorm, rotary positions, SwiGLU, AdamW with decay on matrices only; FP8 by torchao, converted
*before* compiling. It starts from the built-in weights (streams.py). It may not know the protocol.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from streams import fill_normal

RECIPES = {"fp8-tensorwise": "tensorwise", "fp8-rowwise": "rowwise", "fp8-rowwise-gw-hp": "rowwise_with_gw_hp"}
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
INIT_STD = 0.02
FP8_MULTIPLE = 16  # of both dims of a linear: cuBLASLt takes no other FP8 operands


def attend(q, k, v, kernel):
    """Causal attention over (B, H, S, hd)."""
    if kernel == "naive":
        seq = q.shape[-2]
        scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
        mask = torch.ones(seq, seq, dtype=torch.bool, device=q.device).tril()
        return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1) @ v
    with sdpa_kernel([KERNELS[kernel]]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def turn(x, cos, sin):
    """Rotary positions: pairs (i, i + hd/2) of (B, H, S, hd)."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class RmsNorm(nn.Module):
    """Root-mean-square norm with a weight, epsilon 1e-5."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-5)


class Block(nn.Module):
    """Attention and SwiGLU, each on a norm and added to the residual stream."""

    def __init__(self, dim, heads, ffn, attention):
        super().__init__()
        self.heads, self.attention = heads, attention
        self.norm1, self.norm2 = RmsNorm(dim), RmsNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.gate, self.up = nn.Linear(dim, ffn, bias=False), nn.Linear(dim, ffn, bias=False)
        self.down = nn.Linear(ffn, dim, bias=False)

    def forward(self, x, cos, sin):
        batch, length, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        context = attend(turn(q, cos, sin), turn(k, cos, sin), v, self.attention)
        x = x + self.output(context.transpose(1, 2).reshape(batch, length, dim))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    """The language model; its forward gives the mean loss."""

    def __init__(self, dims, p):
        super().__init__()
        dim, layers, heads, ffn, vocab = dims
        padded = -(-vocab // 64) * 64
        self.recompute, seq_len, attention = p["recompute"], p["seq_len"], p["attention"]
        self.activation = torch.float32 if p["precision"] == "fp32" else torch.bfloat16
        self.embedding = nn.Embedding(padded, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, ffn, attention) for _ in range(layers))
        self.norm = RmsNorm(dim)
        self.head = nn.Linear(dim, padded, bias=False)
        self.head.weight = self.embedding.weight
        half = torch.arange(0, dim // heads, 2, dtype=torch.float64) / (dim // heads)
        angle = torch.arange(seq_len, dtype=torch.float64)[:, None] * (10000.0**-half)[None]
        self.register_buffer("cos", angle.cos().float())
        self.register_buffer("sin", angle.sin().float())

    def forward(self, ids, targets):
        x = self.embedding(ids)
        cos, sin = self.cos.to(self.activation), self.sin.to(self.activation)
        for block in self.blocks:
            if self.recompute:
                x = torch.utils.checkpoint.checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin)
        return F.cross_entropy(self.head(self.norm(x)).float().flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def start(self, seed):
        """The weights before the first step: norms at 1, matrices from the streams that the built-in step numbers so."""
        stream = 0
        fill_normal(self.embedding.weight, INIT_STD, seed, stream)
        for block in self.blocks:
            block.norm1.weight.fill_(1.0)
            fill_normal(block.qkv.weight, INIT_STD, seed, stream + 2)
            fill_normal(block.output.weight, INIT_STD, seed, stream + 3)
            block.norm2.weight.fill_(1.0)
            gate, up = block.gate.weight, block.up.weight
            both = torch.empty(2 * gate.shape[0], gate.shape[1], dtype=gate.dtype, device=gate.device)
            fill_normal(both, INIT_STD, seed, stream + 5)  # one stream: gate's rows, then up's
            gate.copy_(both[: gate.shape[0]])
            up.copy_(both[gate.shape[0] :])
            fill_normal(block.down.weight, INIT_STD, seed, stream + 6)
            stream += 6
        self.norm.weight.fill_(1.0)


def convert_to_fp8(model, precision):
    """Makes the linears but the head run in FP8; how many were converted. QKV is one linear, gate and up are two."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def takes(module, name):
        return name != "head" and module.in_features % FP8_MULTIPLE == 0 and module.out_features % FP8_MULTIPLE == 0

    config = Float8LinearConfig.from_recipe_name(RECIPES[precision])
    convert_to_float8_training(model, config=config, module_filter_fn=takes)
    return sum(type(module).__name__ == "Float8Linear" for module in model.modules())


class Training:
    """A model with its optimiser: whole steps, and the way back to the start."""

    def __init__(self, p, dims, device):
        self.p, self.device = p, device
        with torch.device(device):
            self.model = Model(dims, p)
        self.states_in_bf16 = p["precision"] != "fp32" and p["optimizer_state"] == "bf16"
        if self.states_in_bf16:
            cos, sin = self.model.cos, self.model.sin
            self.model = self.model.to(torch.bfloat16)
            self.model.cos, self.model.sin = cos, sin  # tables stay fp32 until they are used
        self.converted = convert_to_fp8(self.model, p["precision"]) if p["precision"] in RECIPES else 0
        self.weights = list(self.model.parameters())
        dim, vocab = dims[0], dims[4]
        padding = (self.model.embedding.weight.shape[0] - vocab) * dim
        self.parameters_count = sum(weight.numel() for weight in self.weights) - padding
        self.flops_per_token = 6 * self.parameters_count + 6 * dims[1] * dim * p["seq_len"]
        groups = [
            {"params": [w for w in self.weights if w.dim() > 1], "weight_decay": p["weight_decay"]},
            {"params": [w for w in self.weights if w.dim() == 1], "weight_decay": 0.0},
        ]
        fused = {"fused": True} if device == "cuda" else {}
        self.optimizer = torch.optim.AdamW(groups, lr=p["learning_rate"], betas=(0.9, 0.95), eps=1e-8, **fused)
        # fp32 weights run their products in bf16, as mixed precision does; bf16 weights need no casts.
        self.mixed = p["precision"] != "fp32" and not self.states_in_bf16
        self.call = self.model
        if p["compile"] == "full":
            self.call = torch.compile(self.model)
        elif p["compile"] == "graph":
            self.call = torch.compile(self.model, mode="reduce-overhead")
        self.steps = 0
        self.released = []

    def start(self, seed):
        """Weights and states as before the first step, in the same tensors: what was compiled or captured stays right."""
        for tensor, size in self.released:
            tensor.untyped_storage().resize_(size)
        self.released = []
        self.model.start(seed)
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
        self.steps = 0

    def gradients(self, ids, targets):
        """Forward and backward; the loss."""
        if self.p["compile"] == "graph":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.mixed):
            loss = self.call(ids, targets)
        loss.backward()
        return loss.detach()

    def step(self, ids, targets):
        """One whole step; its loss, before the update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.gradients(ids, targets)
        if self.p["clip"]:
            nn.utils.clip_grad_norm_(self.weights, self.p["clip"], foreach=True)
        self.steps += 1
        if self.p["lr_warmup_steps"]:
            for group in self.optimizer.param_groups:
                group["lr"] = self.p["learning_rate"] * min(1.0, self.steps / self.p["lr_warmup_steps"])
        self.optimizer.step()
        return loss

    def rest(self):
        """Gives the memory back until the next start, which writes weights and states anew. Captured graphs know addresses, so
        with them weights, states and the graphs' own memory stay."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.p["compile"] != "graph":
            states = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
            for tensor in {id(t): t for t in [*self.weights, *states]}.values():
                storage = tensor.untyped_storage()
                self.released.append((tensor, storage.nbytes()))
                storage.resize_(0)
        if self.device == "cuda":
            torch.cuda.empty_cache()


class Dispatched(TorchDispatchMode):
    """Notes the attention ops that PyTorch's dispatcher really calls."""

    def __init__(self):
        super().__init__()
        self.attention = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "attention" in str(func):
            self.attention = str(func)
        return func(*args, **(kwargs or {}))


def attention_kernel(p, dims, device):
    """Which kernel attention runs at this cell's shape, asked of the dispatcher and not of the wish."""
    if p["attention"] == "naive":
        return "naive: scores materialised"
    dim, heads = dims[0], dims[2]
    dtype = torch.float32 if p["precision"] == "fp32" else torch.bfloat16
    shape = (p["batch_size"], p["seq_len"], heads, dim // heads)
    q = torch.zeros(shape, dtype=dtype, device=device).transpose(1, 2)
    with Dispatched() as dispatched:
        attend(q, q, q, p["attention"])
    name = (dispatched.attention or "aten.math").removesuffix(".default")
    if "cudnn" in name:
        return f"cudnn {version_of(torch.backends.cudnn.version())} ({name})"
    return f"{p['attention']} ({name})"


def version_of(number):
    """cuDNN's version as people write it: 91900 is 9.19.0."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}" if number else "?"
