"""Policies that answer prompts, and (later) the tools and episodes around them."""
