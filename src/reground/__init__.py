"""ReGround: post-train, evaluate and serve vision-language models that point at what you mean."""
