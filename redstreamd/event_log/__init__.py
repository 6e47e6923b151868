"""Which events are recorded, how often, and in which words."""
