"""What a long-running service needs: supervision, logging, and communication with the service manager."""
