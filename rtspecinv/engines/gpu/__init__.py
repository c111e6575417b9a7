"""The engines for a GPU: a CUDA kernel that does a whole push, and a push recorded as CUDA graphs."""
