"""Figures of the daemon and of its streams, as OpenMetrics over HTTP."""
