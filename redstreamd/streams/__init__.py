"""The domain: streams, entries, groups, leases, the codec and the tail hub; imports redisio."""
