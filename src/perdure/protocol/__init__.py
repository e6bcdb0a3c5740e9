"""L1, pure: the Restate service protocol, sans IO, both ends."""
