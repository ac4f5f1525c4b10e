"""The search strategy: which candidate of a joint space to try next, and how far to go with it. Pure arrays."""
