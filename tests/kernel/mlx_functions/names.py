"""The public functions of MLX, and those that have no derivative."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

# What no weight stands before, by the reason.
WITHOUT_DERIVATIVE = {
    "makes constants": "arange bartlett blackman eye hamming hanning identity linspace "
    "ones ones_like tri zeros zeros_like fft.fftfreq fft.rfftfreq random.bernoulli "
    "random.categorical random.key random.randint random.seed random.split",
    "of integers": "bitwise_and bitwise_invert bitwise_or bitwise_xor left_shift right_shift "
    "array.__and__ array.__iand__ array.__ior__ array.__ixor__ array.__invert__ array.__or__ "
    "array.__xor__ array.__lshift__ array.__rshift__ array.__ilshift__ array.__irshift__",
    "gives truth": "allclose array_equal",
    "of types and shapes": "broadcast_shapes can_cast einsum_path isdtype issubdtype "
    "result_type array.__len__",
    "not of arrays": "async_eval clear_cache clear_streams default_device default_stream "
    "device_count device_info disable_compile enable_compile eval export_function export_to_dot "
    "exporter get_active_memory get_array_buffer_size get_cache_memory get_memory_limit "
    "get_peak_memory get_printoptions import_function is_available new_stream "
    "new_thread_local_stream new_thread_unsafe_stream printoptions reset_peak_memory "
    "set_cache_limit set_default_device set_default_stream set_memory_limit set_printoptions "
    "set_wired_limit stream synchronize distributed.init distributed.is_available",
    "of files": "load save save_gguf save_safetensors savez savez_compressed",
    "leaves MLX": "from_dlpack array.__array__ array.__array_namespace__ array.__bool__ "
    "array.__bytes__ array.__complex__ array.__dlpack__ array.__dlpack_device__ array.__float__ "
    "array.__index__ array.__int__ array.item array.tolist array.__setstate__",
    "takes other ranks": "distributed.recv distributed.recv_like distributed.send",
    "takes a GPU's source": "fast.cuda_kernel fast.metal_kernel fast.precompiled_cuda_kernel",
    "not on a CPU": "gather_qqmm qqmm",
}


def public_functions() -> Iterator[str]:
    """Names of all public functions of MLX and methods of its arrays, without aliases."""
    spaces: list[tuple[str, Any]] = [
        ("", mx),
        ("fast.", mx.fast),
        ("linalg.", mx.linalg),
        ("fft.", mx.fft),
        ("random.", mx.random),
        ("distributed.", mx.distributed),
        ("ArrayAt.", mx.ArrayAt),
        ("array.", mx.array),
    ]
    for prefix, space in spaces:
        for name in dir(space):
            member = getattr(space, name)
            methods = space is mx.array
            if not callable(member) or (isinstance(member, type) and name != "custom_function"):
                continue
            if name.startswith("_") and not (methods and name not in dir(object)):
                continue
            if not (_is_alias(name, member, space) or (methods and hasattr(mx, name))):
                yield prefix + name


def _is_alias(name: str, member: Any, space: Any) -> bool:
    """Whether the documentation gives a function under the name of another, as of acos."""
    documented = (member.__doc__ or "").lstrip().partition("(")[0]
    return documented != name and hasattr(space, documented)
