"""Which number format a machine computes in."""

import platform

import torch


def choose_precision(asked: str | None, accelerator: str) -> tuple[str, str]:
    """Choose mixed precision where the hardware computes in it: bf16, or fp16 on older cards; else fp32.

    Returns:
        `trainer.precision`, as asked or chosen for `trainer.accelerator`, and why.
    """
    if asked is not None:
        return asked, "as asked"
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        card = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"as {card} computes in bf16"
        return "16-mixed", f"as {card} computes in fp16, not in bf16"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        if instructions := bf16_instructions():
            return "bf16-mixed", f"as this CPU computes in bf16 ({instructions})"
        return "32-true", "as this CPU has no bf16 instructions"
    return "32-true", f"the choice for accelerator {accelerator}"


def bf16_instructions() -> str:
    """Return the instructions by which this CPU multiplies bf16 matrices; empty if it would only imitate them."""
    if platform.machine() in ("x86_64", "AMD64"):
        if torch.cpu._is_amx_tile_supported():
            return "AMX"
        return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else ""
    # oneDNN, which would do the multiplying, asks the CPU; on x86 it counts imitations as well.
    return "BF16" if torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported() else ""
