"""The experiments: from a configuration to results, one function each."""
