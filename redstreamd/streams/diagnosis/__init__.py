"""What is wrong with a stream or its groups: facts, findings, and the rates a sampler saw."""
