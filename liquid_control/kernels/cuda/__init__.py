"""Kernels in Triton for CUDA: whole sequences forward and backward, float32. One file a layer.

Import a file only where :func:`liquid_control.kernels.kernel_device` says "cuda": it needs `triton`. With
``TRITON_INTERPRET=1`` set before that import, the same kernels run on CPU tensors through Triton's interpreter, slowly:
that is how they are tested where there is no GPU.
"""
