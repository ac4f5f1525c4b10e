"""What is measured: tasks, metrics, figures with their uncertainty, Pareto functions, and the run folder."""
