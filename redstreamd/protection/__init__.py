"""What a socket demands of whoever connects: certificates, keys and tokens, read from files."""
