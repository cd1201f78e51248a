"""How a driver learns."""
