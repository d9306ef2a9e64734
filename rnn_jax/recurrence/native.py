"""Machine code for products by packed matrices, on CPUs.

XLA:CPU lays a matrix out anew for each product, which is most of the work where x has few rows and the same matrix
comes back at every step of a loop. Here it is laid out once, and multiplied by with the code of
`rnn_jax.recurrence.machine_code`: llvmlite compiles it when the first loop needs it, and XLA calls it as a foreign
function.
"""

import ctypes
import functools
import threading
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
    """The name by which XLA knows the code, which is compiled for this processor at the first call.

    It tells the panels' form, so that a program compiled for another processor does not run on this one's.

    Raises:
        NotImplementedError: see `tile_shape`.
    """
    # The runs of a sweep trace their loops side by side, and XLA takes a name only once.
    with _COMPILING:
        return _compile(tile_shape())


_COMPILING = threading.Lock()


@functools.cache
def _compile(shape: Shape) -> str:
    name = f"rnn_jax_packed_product_{shape.columns}"
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    module = llvm.parse_assembly(source(shape))
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    # One step of a tile of 12 rows fills AVX-512's registers: two at once would leave them for memory and come back.
    options.loop_unrolling = shape.lanes < 16
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _kept.append(engine)
    handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("handler"))
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return name


# The code lives as long as the process: XLA keeps its address.
_kept: list[Any] = []
