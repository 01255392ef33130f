"""Training: one loop; a method is a batch source and a loss (dense, SFT, GRPO)."""
