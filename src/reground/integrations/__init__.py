"""ReGround in other people's harnesses: its benchmarks as their tasks, its models as theirs."""
