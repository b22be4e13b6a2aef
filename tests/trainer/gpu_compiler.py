"""The GPU's kernels through Triton's real compiler, on a machine without a GPU: prints what became of each.

``python -m tests.trainer.gpu_compiler 80 90`` launches them for full-size AlexNet on a stand-in for Triton's driver,
which compiles for those compute capabilities and runs nothing. A line of JSON a kernel: name, capability, registers and
bytes of stack of a thread, instructions. Not to be run with TRITON_INTERPRET, which leaves the compiler out.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget

from trainer.network import fused
from trainer.recipes import CONVNET2012

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class StandIn:
    """As much of a driver as Triton asks for when it launches a kernel."""

    def __init__(self, capability: int) -> None:
        self._capability = capability
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 96 << 10}, load_binary=self._load
        )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # compiled kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: object, metadata: object) -> object:
        return lambda *arguments: None

    def _load(self, name: str, binary: bytes, shared: int, device: int) -> tuple[None, None, int, int, int]:
        print(json.dumps({"name": name, "capability": self._capability, **_figures(binary)}), flush=True)
        return None, None, 0, 0, 1024


def _figures(binary: bytes) -> dict[str, int]:
    Path("kernel.cubin").write_bytes(binary)
    usage = _said_by("cuobjdump", "-res-usage", "kernel.cubin")
    listing = _said_by("nvdisasm", "-c", "kernel.cubin")
    registers, stack = (int(re.findall(rf"{what}:(\d+)", usage)[0]) for what in ("REG", "STACK"))
    return {"registers": registers, "stack": stack, "instructions": len(re.findall(r"/\*[0-9a-f]{4,}\*/ +\S", listing))}


def _said_by(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout


def launch_all(dtype: torch.dtype) -> None:
    """Each kernel as one step of the 2012 recipe at full size launches it, over memory that nobody fills."""
    assert CONVNET2012.map_norm is not None
    for maps, side in ((96, 55), (256, 27)):
        x = torch.empty(2, maps, side, side, dtype=dtype, requires_grad=True)
        fused.cross_map_norm(x, CONVNET2012.lrn, num_columns=2, relu=True).backward(torch.empty_like(x))
    fused.within_map_norm(x, CONVNET2012.map_norm).backward(torch.empty_like(x))
    pixels = torch.empty(2, 224, 224, 3, dtype=torch.uint8)
    fused.centred(pixels, torch.empty(224, 224, 3), torch.empty(2, 3), torch.empty(()), dtype)
    weight, velocity = torch.empty(4096, 4096), torch.empty(4096, 4096)
    working = torch.empty_like(weight, dtype=dtype)
    fused.update(weight, velocity, working, working, rate=torch.empty(()), momentum=0.9, decay=0.0005)


if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        triton.runtime.driver.set_active(StandIn(capability))
        for dtype in (torch.bfloat16, torch.float32):
            launch_all(dtype)
