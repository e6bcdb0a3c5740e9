"""L2: ways to a handler. Each opens a duplex of messages."""
