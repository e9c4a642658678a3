"""What PyTorch's own calls of cuDNN's (and FlashAttention-2's) attention reach at the shapes of `cargo bench --bench attention`.

Causal, bf16, one packed (batch, seq, 3, heads, head dim) tensor of queries, keys and values, each call held for a second and the second half
of it timed by CUDA events. FLOPs are halved for the mask and 2.5 times as many backward, as in that benchmark. Needs PyTorch with CUDA:

    python3 scenarios/pytorch/attention.py
"""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

SHAPES = [(16, 2048, 16, 64), (8, 2048, 16, 128), (4, 8192, 16, 64), (4, 8192, 16, 128)]
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash-attention-2": SDPBackend.FLASH_ATTENTION}
HELD = 1.0


def seconds(call, repeats: int) -> float:
    """Seconds of one of `repeats` calls, by the GPU's own clock."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def held(call) -> float:
    """Seconds of a call when clock and power have settled."""
    seconds(call, 4)
    repeats = max(1, round(HELD / 2 / seconds(call, 4)))
    seconds(call, repeats)
    return seconds(call, repeats)


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("not measured: PyTorch finds no GPU")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    for batch, seq, heads, head_dim in SHAPES:
        torch.manual_seed(0)
        packed = torch.randn(batch, seq, 3, heads, head_dim, device="cuda", dtype=torch.bfloat16)
        grad = torch.randn(batch, seq, heads, head_dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        q, k, v = (part.transpose(1, 2).detach().requires_grad_() for part in packed.unbind(2))
        flops = 2 * batch * heads * seq * seq * head_dim  # two products, halved by the mask
        for name, backend in BACKENDS.items():
            with sdpa_kernel(backend):
                attend = lambda: scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
                out = attend()
                with torch.no_grad():
                    forward = held(attend)
                backward = held(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))
            for what, time, share in [("forward", forward, 1.0), ("backward", backward, 2.5)]:
                label = f"B{batch} H{heads} S{seq} hd {head_dim}: PyTorch {name} {what}"
                print(f"{label:<62} {time * 1e6:9.1f} us {flops * share / time / 1e12:7.0f} TFLOP/s")


if __name__ == "__main__":
    main()
