"""The vocabulary of a joint search: knobs, axes, candidates, prompts. Pure values; loads no torch."""
