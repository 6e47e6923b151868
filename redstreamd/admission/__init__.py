"""Who uses how much of the daemon, and who is served next; knows neither Redis nor MCP."""
