"""What of the parts' events is logged, how often, and in which words."""
