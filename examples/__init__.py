"""Models of a user's own, for ``mlx-entk kernel``."""
