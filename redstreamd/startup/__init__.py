"""What works before the heavy imports, or without the daemon; standard library only."""
