"""L2: tables on disk."""
