"""Liquid layers in PyTorch. One file a family; every layer keeps the contract of `liquid_control.nn.layer`."""
