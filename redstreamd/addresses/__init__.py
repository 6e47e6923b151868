"""The syntax of addresses, and default paths of sockets and state; standard library only."""
