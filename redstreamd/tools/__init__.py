"""Tool definitions: arguments, schema and handler together, one file per family."""
