"""A driver: eyes (conv head), a liquid core, hands (action head)."""
