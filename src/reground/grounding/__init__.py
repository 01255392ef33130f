"""What grounding is, without any model: boxes, samples, answers, families, prompts."""
