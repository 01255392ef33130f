"""ReGround: post-train and evaluate vision-language models that point at what you mean."""
