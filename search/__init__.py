"""The only room that knows all others: study, stage tree, workers, budget, command line."""
