"""The daemon: composition root, process set-up, sockets, readiness, status line, shutdown, banner."""
