"""The embedded Redis server: a supervised valkey-server child, its lock, and its end by the kernel."""
