"""How addresses are written, and where sockets and state lie by default; standard library only."""
