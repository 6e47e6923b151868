"""What a long-running service needs: supervision, and its dealings with the service manager."""
