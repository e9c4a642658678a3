"""The built-in training step in PyTorch, as a workload that speaks Stepwatch's worker protocol (JSON lines).

The same model, axes and tokens as the built-in step: decoder-only, tied embeddings, RMSNorm, rotary positions, SwiGLU,
AdamW; FP8 by torchao, converted *before* compiling. It times steps with CUDA events, never synchronises per step, and sends
samples in batches. Where something is missing (PyTorch, a GPU, torchao) it says `skipped` with the reason.

Parameters it takes: model, precision (bf16, fp8-tensorwise, fp8-rowwise, fp8-rowwise-gw-hp, fp32), attention (naive, flash, cudnn),
compile (none, full, graph), batch_size, seq_len, recompute, optimizer_state (bf16, fp32), clip, learning_rate, weight_decay.
"""

import json
import queue
import sys
import threading
import time

BORN = time.monotonic_ns()
DIMS = {  # dim, layers, heads, ffn, vocab: the presets of `stepwatch model`
    "tiny": (64, 2, 4, 256, 256),
    "mini": (256, 4, 4, 1024, 256),
    "350m": (896, 24, 14, 3584, 50257),
    "454m": (1024, 24, 16, 4096, 50257),
    "1b": (2048, 16, 32, 8192, 50257),
    "8b-slice": (4096, 8, 32, 14336, 50257),
}
RECIPES = {"fp8-tensorwise": "tensorwise", "fp8-rowwise": "rowwise", "fp8-rowwise-gw-hp": "rowwise_with_gw_hp"}
IN_FLIGHT = 4  # steps submitted ahead of the one awaited: the GPU never waits for us, and a stop is heard soon


def say(**message):
    """Sends one line to the parent."""
    print(json.dumps(message), file=PARENT, flush=True)


def skip(reason):
    """Ends without failing: this cell cannot run here."""
    say(type="skipped", reason=reason)
    sys.exit(0)


# Only messages may reach the parent: whatever else prints goes to stderr.
PARENT, sys.stdout = sys.stdout, sys.stderr

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    TORCH_MISSING = f"PyTorch cannot be imported ({error}): pip install torch"
else:
    TORCH_MISSING = None if torch.cuda.is_available() else f"PyTorch {torch.__version__} sees no CUDA device"


def classes(attention, seq):
    """The model's modules, for an attention kernel."""

    class RmsNorm(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(dim))

        def forward(self, x):
            return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-5)

    def turn(x, cos, sin):  # (B, H, S, hd)
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    def attend(q, k, v):
        if attention == "naive":
            scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
            mask = torch.ones(seq, seq, dtype=torch.bool, device=q.device).tril()
            return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1) @ v
        kernel = SDPBackend.CUDNN_ATTENTION if attention == "cudnn" else SDPBackend.FLASH_ATTENTION
        with sdpa_kernel([kernel]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    class Block(nn.Module):
        def __init__(self, dim, heads, ffn):
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = RmsNorm(dim), RmsNorm(dim)
            self.qkv = nn.Linear(dim, 3 * dim, bias=False)
            self.output = nn.Linear(dim, dim, bias=False)
            self.gate, self.up = nn.Linear(dim, ffn, bias=False), nn.Linear(dim, ffn, bias=False)
            self.down = nn.Linear(ffn, dim, bias=False)

        def forward(self, x, cos, sin):
            batch, length, dim = x.shape
            qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, dim // self.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            context = attend(turn(q, cos, sin), turn(k, cos, sin), v)
            x = x + self.output(context.transpose(1, 2).reshape(batch, length, dim))
            y = self.norm2(x)
            return x + self.down(F.silu(self.gate(y)) * self.up(y))

    return RmsNorm, Block


def build(p):
    """The model on the GPU, how many linears were converted to FP8, and what N and the FLOPs of a token are."""
    dim, layers, heads, ffn, vocab = DIMS[p["model"]]
    padded = -(-vocab // 64) * 64
    norm_class, block_class = classes(p["attention"], p["seq_len"])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(padded, dim)
            self.blocks = nn.ModuleList(block_class(dim, heads, ffn) for _ in range(layers))
            self.norm = norm_class(dim)
            self.head = nn.Linear(dim, padded, bias=False)
            self.head.weight = self.embedding.weight
            half = torch.arange(0, dim // heads, 2) / (dim // heads)
            angle = torch.arange(p["seq_len"])[:, None] * (10000.0 ** -half)[None]
            self.register_buffer("cos", angle.cos())
            self.register_buffer("sin", angle.sin())

        def forward(self, ids, targets):
            x = self.embedding(ids)
            cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
            for block in self.blocks:
                if p["recompute"]:
                    x = torch.utils.checkpoint.checkpoint(block, x, cos, sin, use_reentrant=False)
                else:
                    x = block(x, cos, sin)
            return F.cross_entropy(self.head(self.norm(x)).float().flatten(0, 1), targets.flatten())

    with torch.device("cuda"):
        model = Model()
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)
    if p["precision"] != "fp32" and p["optimizer_state"] == "bf16":
        model = model.to(torch.bfloat16)
    converted = 0
    if p["precision"] in RECIPES:
        try:
            from torchao.float8 import Float8LinearConfig, convert_to_float8_training
        except ImportError as error:
            skip(f"torchao cannot be imported ({error}): pip install torchao")
        config = Float8LinearConfig.from_recipe_name(RECIPES[p["precision"]])
        convert_to_float8_training(model, config=config, module_filter_fn=lambda _, name: name != "head")
        converted = sum(type(module).__name__ == "Float8Linear" for module in model.modules())
    count = sum(weight.numel() for weight in model.parameters()) - (padded - vocab) * dim
    return model, converted, count, 6 * count + 6 * layers * dim * p["seq_len"], vocab


def training_step(model, p):
    """A function that runs one whole step and gives its loss."""
    if p["compile"] in ("full", "true", True):
        model = torch.compile(model)
    elif p["compile"] == "graph":
        model = torch.compile(model, mode="reduce-overhead")
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(
        weights, lr=p["learning_rate"], betas=(0.9, 0.95), weight_decay=p["weight_decay"], fused=True
    )
    # fp32 weights run their products in bf16, as mixed precision does; bf16 weights need no casts.
    mixed = p["precision"] != "fp32" and p["optimizer_state"] == "fp32"

    def step(ids, targets):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            loss = model(ids, targets)
        loss.backward()
        if p["clip"]:
            nn.utils.clip_grad_norm_(weights, p["clip"], foreach=True)
        optimizer.step()
        return loss.detach()

    return step


def listen(inbox):
    """Puts the parent's lines into the inbox; the end of input is a stop."""
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put({"type": "stop"})


def attention_kernel(step, batch):
    """The name of the attention kernel that really ran."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step(*batch)
        torch.cuda.synchronize()
    names = {event.key for event in seen.key_averages()}
    hits = sorted(name for name in names if any(word in name.lower() for word in ("flash", "fmha", "cudnn", "sdpa")))
    return hits[0][:80] if hits else "none found"


def run(step, batch, p, inbox, limit):
    """Steps until told to stop, or to the limit; sends samples as they come in."""
    tokens = p["batch_size"] * p["seq_len"]
    losses = torch.empty(limit + 1, pin_memory=True)
    base, base_ns = torch.cuda.Event(enable_timing=True), None
    base.record()
    torch.cuda.synchronize()
    base_ns = time.monotonic_ns() - BORN
    marks, sent, done = [base], 0, False
    while not done and len(marks) <= limit:
        losses[len(marks) - 1 : len(marks)].copy_(step(*batch).reshape(1), non_blocking=True)
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        marks.append(mark)
        if len(marks) - 1 - sent > IN_FLIGHT:
            marks[len(marks) - 1 - IN_FLIGHT].synchronize()
            ready = len(marks) - 1 - IN_FLIGHT
            steps = range(sent, ready)
            say(
                type="samples",
                **{"from": sent},
                t_ns=[base_ns + int(marks[0].elapsed_time(marks[i + 1]) * 1e6) for i in steps],
                gpu_ns=[max(1, int(marks[i].elapsed_time(marks[i + 1]) * 1e6)) for i in steps],
                tokens=tokens,
                loss=[losses[i].item() for i in steps],
            )
            sent = ready
        while not inbox.empty():
            done = inbox.get().get("type") == "stop" or done
    torch.cuda.synchronize()
    return len(marks) - 1, losses[len(marks) - 2].item() if len(marks) > 1 else None


def main():
    cell = json.loads(sys.stdin.readline())
    if TORCH_MISSING:
        skip(TORCH_MISSING)
    defaults = dict(
        model="454m", precision="bf16", attention="flash", compile="none", batch_size=8, seq_len=1024, recompute=False,
        optimizer_state="bf16", clip=0.0, learning_rate=3e-4, weight_decay=0.1,
    )
    p = {**defaults, **cell["parameters"]}
    if p["model"] not in DIMS:
        skip(f"model {p['model']!r} is not one of {', '.join(DIMS)}")
    if p["precision"] not in ("fp32", "bf16", *RECIPES):
        skip(f"precision {p['precision']!r} has no counterpart in torchao")
    torch.manual_seed(cell["seed"])
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        model, converted, count, flops, vocab = build(p)
        step = training_step(model, p)
        ids = torch.randint(0, vocab, (p["batch_size"], p["seq_len"] + 1), device="cuda")
        batch = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        started = time.monotonic()
        first_loss = step(*batch).item()
        first = time.monotonic() - started
        attention = attention_kernel(step, batch) if cell["mode"] == "prepare" else p["attention"]
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values()) if p["compile"] != "none" else 0
        say(
            type="ready", protocol=1, setup_seconds=(time.monotonic_ns() - BORN) / 1e9, first_step_seconds=first,
            device=torch.cuda.get_device_name(), device_uuid=f"GPU-{torch.cuda.get_device_properties(0).uuid}",
            parameters_count=count, fp8_linears=converted, attention=attention, flops_per_token=flops,
            passes=[] if p["compile"] == "none" else [f"torch.compile ({p['compile']})", f"{breaks} graph breaks"],
        )
        torch.cuda.reset_peak_memory_stats()
        steps, loss = 1, first_loss
        if cell["mode"] == "measure":
            inbox = queue.Queue()
            threading.Thread(target=listen, args=(inbox,), daemon=True).start()
            more, last = run(step, batch, p, inbox, cell["max_steps"])
            steps, loss = steps + more, last if last is not None else loss
        say(type="finished", steps=steps, loss=loss, peak_memory_bytes=torch.cuda.max_memory_allocated())
    except torch.OutOfMemoryError as error:
        say(type="failed", kind="out-of-memory", message=str(error).splitlines()[0])


main()
