"""What MCP clients are served: tools, resources, prompts and completion as one server of the SDK."""
