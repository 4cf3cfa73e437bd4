"""Small experiments whose outcome is known beforehand: do the losses do what their papers say?

Each runs alone: `python -m benchmarks.experiments.bandit`, `.label_noise`, `.kto_imbalance`, `.orpo_without_sft`. Raw
runs go into `benchmarks/results/experiment-*.json`; `python -m benchmarks.experiments.readme` makes the tables of them.
"""
