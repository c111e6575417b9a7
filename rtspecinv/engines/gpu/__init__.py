"""The engines for a GPU: a replayed CUDA graph, and a kernel that does a whole push."""
