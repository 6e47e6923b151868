"""A client of the daemon: finds its socket and sends one request; standard library only."""
