"""FBGEMM's table-batched embedding on the CPU, as a lookup by row number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.peers import PeerAbsent

INSTALL = (
    "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu, which spares CUDA's gigabytes, and "
    "then pip install -e '.[bench-fbgemm]'"
)


class FbgemmTable:
    """One table of f32 rows [n, dim], of which `count` are asked for at a time."""

    def __init__(self, rows: NDArray[np.float32], count: int) -> None:
        """Nothing is copied: `rows` are the table's memory, and have to be C-contiguous."""
        import torch
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

        self._torch = torch
        # The module lays out what the op is given; of one table with a single row, since its memory is not used.
        module = IntNBitTableBatchedEmbeddingBagsCodegen(
            [("", 1, rows.shape[1], SparseType.FP32, EmbeddingLocation.HOST)],
            device="cpu",
            pooling_mode=PoolingMode.SUM,  # of bags of one id each, which is faster than PoolingMode.NONE
            output_dtype=SparseType.FP32,
        )
        module.initialize_weights()
        memory = torch.from_numpy(rows.reshape(-1).view(np.uint8))
        self._op = partial(
            torch.ops.fbgemm.int_nbit_split_embedding_codegen_lookup_function.default,
            *(memory, module.weights_uvm, module.weights_placements, module.weights_offsets, module.weights_tys),
            *(module.D_offsets, module.total_D, module.max_int2_D, module.max_int4_D, module.max_int8_D),
            *(module.max_float16_D, module.max_float32_D),
        )
        each_one_bag = torch.arange(count + 1, dtype=torch.int32)
        self._rest = (each_one_bag, int(module.pooling_mode), None, module.output_dtype)

    def places(self, places: NDArray[np.int64]) -> Any:
        """Row numbers [count] as the tensor that the op is fastest with."""
        return self._torch.from_numpy(places).to(self._torch.int32)

    def lookup(self, places: Any) -> Any:
        """Their rows, a tensor of f32 [count, dim]."""
        return self._op(places, *self._rest)


@contextmanager
def fbgemm_table(rows: NDArray[np.float32], count: int) -> Iterator[FbgemmTable]:
    """The table, for a block in which torch has one thread and records no gradients.

    PeerAbsent where torch or fbgemm-gpu-cpu is not installed, or they do not fit each other.
    """
    try:
        import fbgemm_gpu  # noqa: F401 - registers the op
        import torch

        table = FbgemmTable(rows, count)
    except (ImportError, OSError, AttributeError) as error:
        raise PeerAbsent(f"torch with FBGEMM cannot be used: {error} ({INSTALL})") from error
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield table
    finally:
        torch.set_num_threads(threads)
