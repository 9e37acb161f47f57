"""Models of a reader's own, for ``mlx-entk kernel``."""
