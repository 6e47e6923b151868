"""Which events are logged, how often, and in which words."""
