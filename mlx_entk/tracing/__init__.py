"""A model as MLX sees it: a function of its parameters, its graph, its derivatives.

What ``mlx_entk.jacobian`` and ``mlx_entk.entk`` know of a model before they compute, and
how they tell whether MLX's derivative rules are right for it.
"""
