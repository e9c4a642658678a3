"""The built-in training step in PyTorch, as a workload that speaks Stepwatch's worker protocol (JSON lines).

The same model, axes, weights and tokens as the built-in step (model.py, streams.py). It times steps with CUDA events, never
synchronises per step, and sends samples in batches. Where something is missing (PyTorch, a GPU, torchao) it says `skipped` with
the reason. A persistent worker stays for the next round, so that no round but the first compiles; it starts each round again
from the first weights and gives activations back to the GPU in between.

Parameters: model, precision (fp32, bf16, fp8-tensorwise, fp8-rowwise, fp8-rowwise-gw-hp), attention (naive, flash, cudnn),
compile (none, full, graph), batch_size, seq_len, recompute, optimizer_state (bf16, fp32), clip, learning_rate,
lr_warmup_steps, weight_decay. `--device cpu` runs it on the host: for checks of its numbers, not of its speed.
"""

import gc
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
DEFAULTS = dict(  # of the built-in step
    model="tiny", precision="bf16", attention="flash", compile="none", batch_size=8, seq_len=1024, recompute=False,
    optimizer_state="fp32", clip=1.0, head="bf16", data="zipf", learning_rate=3e-4, lr_warmup_steps=0, weight_decay=0.1,
)
IN_FLIGHT = 4  # steps submitted ahead of the one awaited: the GPU never waits for us, and a stop is heard soon
SEND_EVERY_NS = 50_000_000

# Only messages may reach the parent: whatever else prints goes to stderr.
PARENT, sys.stdout = sys.stdout, sys.stderr


def say(**message):
    """Sends one line to the parent."""
    print(json.dumps(message), file=PARENT, flush=True)


class Skip(Exception):
    """This cell cannot run here, and that is no failure."""


def import_torch(device):
    """PyTorch with what this cell needs of it, or why not."""
    global torch, Training, attention_kernel, Tokens
    try:
        import torch
    except ImportError as error:
        raise Skip(f"PyTorch cannot be imported ({error}): pip install torch") from None
    if device == "cuda":
        if torch.version.cuda is None:
            raise Skip(f"PyTorch {torch.__version__} is built without CUDA: install a CUDA build from pytorch.org")
        if not torch.cuda.is_available():
            raise Skip(f"PyTorch {torch.__version__} (CUDA {torch.version.cuda}) sees no CUDA device")
    from model import Training, attention_kernel
    from streams import Tokens


def check(p, device):
    """What this script has no counterpart for."""
    recipes = ("fp8-tensorwise", "fp8-rowwise", "fp8-rowwise-gw-hp")
    if p["model"] not in DIMS:
        raise Skip(f"model {p['model']!r} is not one of {', '.join(DIMS)}")
    if p["precision"] not in ("fp32", "bf16", *recipes):
        raise Skip(f"precision {p['precision']!r} has no counterpart in torchao: it has {', '.join(recipes)}")
    if p["compile"] not in ("none", "full", "graph"):
        raise Skip(f"compile {p['compile']!r} has no counterpart in PyTorch: it has none, full and graph")
    if p["head"] != "bf16" or p["data"] != "zipf":
        raise Skip("only head = \"bf16\" and data = \"zipf\" are written for PyTorch")
    if p["precision"] in recipes:
        if device != "cuda":
            raise Skip("FP8 products need a GPU")
        if torch.cuda.get_device_capability() < (8, 9):
            raise Skip(f"{torch.cuda.get_device_name()} has no FP8 tensor cores")
        try:
            import torchao.float8  # noqa: F401
        except ImportError as error:
            raise Skip(f"torchao cannot be imported ({error}): pip install torchao") from None


def versions():
    """Of what the figures depend on."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    for name in ("torchao", "triton"):
        if name in sys.modules:
            found[name] = getattr(sys.modules[name], "__version__", "?")
    return found


class Cell:
    """One cell, built and compiled once, however many rounds it runs."""

    def __init__(self, p, seed, device):
        self.p, self.seed, self.device = p, seed, device
        self.resumed = False
        dims = DIMS[p["model"]]
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.attention = attention_kernel(p, dims, device)
        self.training = Training(p, dims, device)
        self.training.start(seed)
        self.tokens = Tokens(dims[4], p["batch_size"], p["seq_len"], seed, device)
        self.compile_seconds, self.breaks = self.compile()

    def compile(self):
        """Compiles by a forward and backward pass whose gradients are thrown away: seconds, and graph breaks."""
        if self.p["compile"] == "none":
            return None, None
        began = time.monotonic()
        for _ in range(3 if self.p["compile"] == "graph" else 1):  # warm-up and capture are passes of their own
            self.training.gradients(*self.tokens.batch(0))
            self.training.optimizer.zero_grad(set_to_none=True)
        self.wait()
        return time.monotonic() - began, sum(torch._dynamo.utils.counters["graph_break"].values())

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def first_step(self):
        """The first step, to its end; says `ready`; its loss."""
        self.training.start(self.seed)
        batch = self.tokens.batch(0)
        self.wait()
        began = time.monotonic()
        loss = self.training.step(*batch).item()
        first = time.monotonic() - began
        p, training = self.p, self.training
        passes = []
        if p["compile"] != "none":
            mode = "reduce-overhead" if p["compile"] == "graph" else "default"
            passes = [f"torch.compile, mode {mode}", f"{self.breaks} graph breaks"]
        ready = dict(
            protocol=1, parameters_count=training.parameters_count, fp8_linears=training.converted,
            attention=self.attention, flops_per_token=training.flops_per_token, passes=passes, loss=loss,
            graph_breaks=self.breaks, versions=versions(), device=f"{self.device} of PyTorch",
        )
        if self.device == "cuda":
            ready["device"] = torch.cuda.get_device_name()
            ready["device_uuid"] = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        if not self.resumed:  # later rounds neither start a process nor compile
            ready["setup_seconds"] = (time.monotonic_ns() - BORN) / 1e9
            ready["first_step_seconds"] = first
            ready["compile_seconds"] = self.compile_seconds
        say(type="ready", **ready)
        return loss

    def round(self, inbox, limit):
        """One round: the first step, then steps until told to stop or to the limit."""
        loss = self.first_step()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        steps = self.run(inbox, limit)
        if steps:
            loss = self.losses[steps - 1].item()
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        self.resumed = True
        self.training.rest()  # before it is said: what runs next needs the memory
        say(type="finished", steps=steps + 1, loss=loss, peak_memory_bytes=peak)

    def run(self, inbox, limit):
        """Runs the steps and sends their samples as they come in; how many there were."""
        clock = Marks() if self.device == "cuda" else HostMarks()
        self.losses = torch.empty(limit + 1, pin_memory=self.device == "cuda")
        tokens = self.p["batch_size"] * self.p["seq_len"]
        done, sent, sent_ns, steps = False, 0, time.monotonic_ns(), 0

        def send(until):
            if until > sent:
                times = [clock.step(i) for i in range(sent, until)]
                say(
                    type="samples", tokens=tokens, loss=self.losses[sent:until].tolist(), **{"from": sent},
                    t_ns=[t for t, _ in times], gpu_ns=[gpu for _, gpu in times],
                )

        while not done and steps < limit:
            loss = self.training.step(*self.tokens.batch(steps + 1))
            self.losses[steps : steps + 1].copy_(loss.reshape(1), non_blocking=True)
            clock.mark()
            steps += 1
            ended = steps - IN_FLIGHT
            if ended > 0:
                clock.wait(ended)
                if time.monotonic_ns() - sent_ns >= SEND_EVERY_NS:
                    send(ended)
                    sent, sent_ns = max(sent, ended), time.monotonic_ns()
            while not inbox.empty():
                done = inbox.get().get("type") == "stop" or done
        self.wait()
        send(steps)
        return steps


class Marks:
    """The ends of steps in the GPU's stream, as CUDA events."""

    def __init__(self):
        self.events = []
        self.mark()
        self.events[0].synchronize()
        self.base_ns = time.monotonic_ns() - BORN

    def mark(self):
        self.events.append(torch.cuda.Event(enable_timing=True))
        self.events[-1].record()

    def wait(self, step):
        """Until so many steps have ended."""
        self.events[step].synchronize()

    def step(self, index):
        """When a step ended, ns since this process's start, and how long it took, ns."""
        end = self.base_ns + int(self.events[0].elapsed_time(self.events[index + 1]) * 1e6)
        return end, max(1, int(self.events[index].elapsed_time(self.events[index + 1]) * 1e6))


class HostMarks:
    """The ends of steps on the host's clock, for the CPU: a step has ended when its call has."""

    def __init__(self):
        self.times = [time.monotonic_ns() - BORN]

    def mark(self):
        self.times.append(time.monotonic_ns() - BORN)

    def wait(self, step):
        """Nothing is in flight."""

    def step(self, index):
        """When a step ended, ns since this process's start, and how long it took, ns."""
        return self.times[index + 1], max(1, self.times[index + 1] - self.times[index])


def listen(inbox):
    """Puts the parent's lines into the inbox; the end of input ends the round and the worker."""
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put({"type": "stop"})
    inbox.put({"type": "gone"})


def serve(inbox, device):
    """Cells until there are no more: one, or as many rounds of one as a persistent worker is asked for."""
    cell = None
    while (asked := inbox.get())["type"] != "gone":
        if asked["type"] != "cell":
            continue  # a stop that crossed our `finished`
        p = {**DEFAULTS, **asked["parameters"]}
        p["compile"] = {True: "full", False: "none"}.get(p["compile"], p["compile"])
        if cell is None:
            import_torch(device)
            check(p, device)
            cell = Cell(p, asked["seed"], device)
        elif (cell.p, cell.seed) != (p, asked["seed"]):
            raise RuntimeError("a persistent worker runs rounds of one cell")
        if asked["mode"] == "measure":
            cell.round(inbox, asked["max_steps"])
        else:
            cell.first_step()
            say(type="finished", steps=1)
        if not asked.get("persistent", False):
            return
        gc.collect()


def main():
    device = "cpu" if "--device=cpu" in sys.argv[1:] or sys.argv[-2:] == ["--device", "cpu"] else "cuda"
    inbox = queue.Queue()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()
    try:
        serve(inbox, device)
    except Skip as reason:
        say(type="skipped", reason=str(reason))
    except Exception as error:  # whatever it is, the parent is told in one line and the rest stands on stderr
        message = (str(error).splitlines() or [type(error).__name__])[0][:400]
        if "out of memory" in message.lower():
            say(type="failed", kind="out-of-memory", message=message)
        elif "No available kernel" in message:
            say(type="skipped", reason=f"PyTorch has no such attention kernel for this shape and device: {message}")
        else:
            import traceback

            traceback.print_exc()
            say(type="failed", kind=type(error).__name__, message=message)


main()
