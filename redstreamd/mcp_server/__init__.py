"""The MCP server: tools, resources, prompts and completion on the SDK's server class."""
