"""The composition root and what only it needs: sockets, readiness, the status line, the banner."""
