"""What a profiler can be told, apart from it because reading a configuration should not wait for PyTorch."""

MODES = ("none", "nvtx", "torch")
SCOPES = ("broad", "function")
ROUNDS = 2  # that a trace records: the first, which warms up, and one like those that follow
