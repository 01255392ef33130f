"""A vLLM engine as the policy of training: prompts in, completions out, weights after an update."""
