"""Machine code for products by packed matrices, on CPUs.

XLA:CPU lays a matrix out anew for each product, which is most of the work where x has few rows and the same matrix
comes back at every step of a loop. Here it is laid out once, and multiplied by with the code of
`rnn_jax.recurrence.machine_code`: llvmlite compiles it when the first loop needs it, and XLA calls it as a foreign
function.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import llvmlite.binding as llvm

from rnn_jax.recurrence.machine_code import Shape, source


@functools.cache
def tile_shape() -> Shape:
    """The tile for this processor: 32 registers of 16 numbers, 16 of 8, or 32 of 4.

    Raises:
        NotImplementedError: a processor without fused multiply-add on vectors.
    """
    name = llvm.get_process_triple().partition("-")[0]
    features = llvm.get_host_cpu_features()
    if name == "x86_64" and features.get("avx512f"):
        return Shape(16, 12)
    if name == "x86_64" and features.get("avx2") and features.get("fma"):
        return Shape(8, 6)
    if name in ("aarch64", "arm64"):
        return Shape(4, 8)
    raise NotImplementedError(f"expected a processor with AVX2 and FMA, AVX-512 or NEON, found {name}")


def target() -> str:
    """The name by which XLA knows the product, which is compiled for this processor at the first call.

    It tells the panels' form, so that a program compiled for another processor does not run on this one's.

    Raises:
        NotImplementedError: see `tile_shape`.
    """
    shape = tile_shape()
    return compiled(f"product_{shape.columns}", lambda: source(shape), unrolled=shape.lanes < 16)


def compiled(name: str, source: Callable[[], str], *, unrolled: bool) -> str:
    """The name by which XLA knows a program, compiled for this processor when it is first asked for.

    Args:
        name: what tells it from others.
        source: the program, of which XLA calls `handler`.
        unrolled: whether LLVM may unroll loops. One step of a tile of 12 rows fills AVX-512's registers: two at once
            would leave them for memory and come back.
    """
    name = f"rnn_jax_{name}"
    # The runs of a sweep trace their loops side by side, and XLA takes a name only once.
    with _COMPILING:
        if name not in _kept:
            engine = _compile(source(), unrolled)
            handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("handler"))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
            _kept[name] = engine
    return name


_COMPILING = threading.Lock()


def _compile(source: str, unrolled: bool) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    module = llvm.parse_assembly(source)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_unrolling = unrolled
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


# The code lives as long as the process: XLA keeps its address.
_kept: dict[str, Any] = {}
