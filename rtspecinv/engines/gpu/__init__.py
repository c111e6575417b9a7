"""The engines for a GPU: a replayed CUDA graph for few streams, a Triton kernel for many."""
