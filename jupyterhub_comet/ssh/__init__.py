"""SSH identities: spawn ids, keys and certificates, shared by the hub and tunnelbot."""
