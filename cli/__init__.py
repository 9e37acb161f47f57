"""The command line of mlx-entk, installed as ``mlx_entk_cli``."""
