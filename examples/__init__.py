"""Models as a user would write them, for ``mlx-entk kernel`` and ``mlx-entk lm``."""
