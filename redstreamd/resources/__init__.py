"""Resources: streams, entries, fields, groups and the daemon's health under ``redstream://`` URIs."""
