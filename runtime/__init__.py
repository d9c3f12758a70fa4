"""Optimizers compiled from specs: a readable NumPy step and fused kernels with the same bits."""
