"""A client of the daemon: finds its socket, sends one request or bridges a session; standard library only."""
