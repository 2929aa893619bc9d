"""Words that options take, for command lines that must not load torch to know them."""

HALVES = ("auto", "bf16", "fp16")
"""Half precisions of training; auto takes bf16 where the device has it."""

MININGS = ("random", "triplets", "negatives")
"""What a batch of metric learning holds: some labels at random, hard triplets, or queries with hard negatives."""

TARGETS = ("teacher", "max")
"""How a teacher's resolutions become one target: as it says itself, or by the largest of each value."""

REDUCTIONS = ("serial", "parallel")
"""Where the layer of a dimension reduction stands: after the descriptor, or in place of the whitening."""
